// A reranker in the browser: reads the folder that `prorank export --format onnx` writes and scores pairs by onnxruntime-web.
// Nothing is fetched but that folder and the two packages in node_modules.

import { Tokenizer } from "./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const FILES = { int8: "onnx/model_quantized.onnx", fp32: "onnx/model.onnx" };

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

async function fetchFile(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address} is not there (HTTP ${answer.status}): run prorank export as README.md says`);
  return answer;
}

export class Reranker {
  /**
   * Load a model.
   * @param {string} folder address of the exported folder, relative to the page
   * @param {"int8"|"fp32"} dtype which of its graphs
   */
  static async load(folder, dtype = "int8") {
    if (!(dtype in FILES)) throw new Error(`unknown dtype ${dtype}; valid: ${Object.keys(FILES).join(", ")}`);
    const base = new URL(`${folder.replace(/\/+$/, "")}/`, pageAddress());
    const read = (name) => fetchFile(new URL(name, base)).then((answer) => answer.json());
    const names = ["tokenizer.json", "tokenizer_config.json", "prompt.json"];
    const [tokenizer, config, prompt] = await Promise.all(names.map(read));
    const graph = new Uint8Array(await (await fetchFile(new URL(FILES[dtype], base))).arrayBuffer());
    const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    return new Reranker(tokenizer, config, prompt, session);
  }

  constructor(tokenizer, config, prompt, session) {
    const template = tokenizer.post_processor;
    if (template?.type !== "TemplateProcessing" || !tokenizer.truncation)
      throw new Error("tokenizer.json holds no prompt: export without --no-template");
    // Special tokens in texts are plain text, as in ProRank, unless the prompt takes them for special ones.
    const known = tokenizer.added_tokens.filter((token) => !(config.split_special_tokens && token.special));
    this.tokenizer = new Tokenizer({ ...tokenizer, added_tokens: known }, config);
    this.maxTokens = tokenizer.truncation.max_length;
    this.maxDocumentTokens = prompt.chunk_length ?? Infinity; // ProRank reads longer documents in parts, this page the first part
    this.parts = template.pair.map((part) =>
      part.SpecialToken ? template.special_tokens[part.SpecialToken.id].ids : part.Sequence.id);
    this.fixed = this.parts.reduce((sum, part) => sum + (Array.isArray(part) ? part.length : 0), 0);
    this.session = session;
  }

  /** Ids of a text without anything around it. */
  textIds(text) {
    return text ? this.tokenizer.encode(text, { add_special_tokens: false }).ids : [];
  }

  /**
   * The prompt's ids for a pair. The document alone is cut, as by `truncation="only_second"` in Python; the tokenizer's own
   * truncation would cut the end of the prompt.
   * @returns {{ids: number[], cut: boolean}}
   */
  encode(query, document) {
    const texts = { A: this.textIds(query), B: this.textIds(document) };
    const room = this.maxTokens - this.fixed - texts.A.length;
    if (room < 0) throw new Error(`the query has ${texts.A.length} tokens; ${this.maxTokens - this.fixed} is the most`);
    const most = Math.min(room, this.maxDocumentTokens);
    const cut = texts.B.length > most;
    texts.B = texts.B.slice(0, most);
    return { ids: this.parts.flatMap((part) => (Array.isArray(part) ? part : texts[part])), cut };
  }

  /** The score (log-odds) of a pair that `encode` made. */
  async score(ids) {
    const shape = [1, ids.length];
    const feeds = {
      input_ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), shape),
      attention_mask: new ort.Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
    };
    const { logits } = await this.session.run(feeds);
    return logits.data[0];
  }

  /**
   * Rank documents, one at a time, so that no token is padding.
   * @param {(done: number) => void} [progress] called after each document
   * @returns {Promise<{hits: {index: number, score: number, cut: boolean}[], tokens: number}>} the best document first
   */
  async rank(query, documents, progress = () => {}) {
    const hits = [];
    let tokens = 0;
    for (const [index, document] of documents.entries()) {
      const { ids, cut } = this.encode(query, document);
      hits.push({ index, score: await this.score(ids), cut });
      tokens += ids.length;
      progress(index + 1);
    }
    hits.sort((a, b) => b.score - a.score || a.index - b.index);
    return { hits, tokens };
  }
}

/** Address that relative addresses start from, in a page and in a worker. */
function pageAddress() {
  return globalThis.document?.baseURI ?? globalThis.location.href;
}
