// Holds the model, so that the page stays responsive while it reads documents.

import { Reranker } from "./reranker.js";

let loading;

self.onmessage = async ({ data }) => {
  try {
    if (data.kind === "load") {
      loading = Reranker.load(data.folder, data.dtype);
      const { maxTokens } = await loading;
      self.postMessage({ kind: "ready", maxTokens });
      return;
    }
    const reranker = await loading;
    const begin = performance.now();
    const result = await reranker.rank(data.query, data.documents, (done) => self.postMessage({ kind: "progress", done }));
    self.postMessage({ kind: "ranked", seconds: (performance.now() - begin) / 1000, ...result });
  } catch (error) {
    self.postMessage({ kind: "error", message: error.message ?? String(error) });
  }
};
