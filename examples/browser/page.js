// The page: sends query and documents to the worker and shows what comes back. Texts are inserted as text, never as markup.
// ?model=FOLDER names the exported folder (default: model), ?dtype=fp32 the other graph (default: int8).

const find = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const [folder, dtype] = [asked.get("model") ?? "model", asked.get("dtype") ?? "int8"];
const worker = new Worker("worker.js", { type: "module" });
let documents = [];

function readDocuments() {
  return find("documents").value.split("\n").map((line) => line.trim()).filter(Boolean);
}

function show(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function hitElement(hit, place) {
  const change = hit.index - place;
  const item = element("li", "hit", "");
  item.dataset.index = hit.index;
  item.dataset.score = hit.score;
  item.append(
    element("span", "score", hit.score.toFixed(3)),
    element("span", "change", change > 0 ? `▲ ${change}` : change < 0 ? `▼ ${-change}` : "–"),
    element("span", "text", documents[hit.index]),
  );
  if (hit.cut) item.append(element("span", "cut", "cut"));
  return item;
}

const handlers = {
  ready({ maxTokens }) {
    show(`Ready: ${folder}, ${dtype}, ${maxTokens} tokens a prompt.`);
    find("rank").disabled = false;
  },
  progress({ done }) {
    show(`${done} of ${documents.length} documents …`);
  },
  ranked({ hits, tokens, seconds }) {
    find("hits").replaceChildren(...hits.map(hitElement));
    show(`${hits.length} documents, ${tokens} tokens in ${seconds.toFixed(2)} s, in this browser.`);
    find("rank").disabled = false;
  },
  error({ message }) {
    show(message, true);
    find("rank").disabled = false;
  },
};

worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => show(event.message || "The worker cannot start: run npm ci as README.md says.", true);

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  documents = readDocuments();
  const query = find("query").value;
  if (!query.trim() || !documents.length) {
    show("Enter a query and documents, one a line.", true);
    return;
  }
  find("rank").disabled = true;
  find("hits").replaceChildren();
  worker.postMessage({ kind: "rank", query, documents });
});

show(`Loading ${folder}, ${dtype} …`);
worker.postMessage({ kind: "load", folder: new URL(folder, document.baseURI).href, dtype });
