// The playground: reads the form, calls /v1/rerank, shows the hits. All text is inserted with textContent, never as HTML.
"use strict";

const EXAMPLES = [
  ["How do vaccines work?", [
    "The new clinic in Hallstatt opens at eight and closes at noon on Fridays.",
    "A vaccine shows the immune system a harmless piece of a germ. Cells that recognise it stay in the body for years.",
    "Vaccines must be kept cold on their way from the factory to the doctor.",
    "Antibiotics kill bacteria and have no effect on viruses.",
    "After a shot the arm may be sore: the body is busy making antibodies, which later stop the real disease early.",
    "My neighbour collects stamps that show famous doctors.",
  ]],
  ["bread does not rise", [
    "A stone keeps the heat of the oven and gives pizza a crisp floor.",
    "Old or scalded yeast makes no gas, so the dough stays flat. Water for yeast should feel warm to the hand, not hot.",
    "Bread prices rose by four per cent last year.",
    "In a cold kitchen dough may need three times as long until it has doubled.",
    "Sourdough gets its taste from lactic and acetic acid.",
    "The sun rises in the east; bakers rise before it.",
  ]],
  ["python read a large csv file without running out of memory", [
    "Pythons swallow their prey whole and may then rest for weeks.",
    "Read the file in pieces: pandas.read_csv(path, chunksize=100_000) gives an iterator of frames.",
    "Memory foam was first made for seats of aircraft.",
    "csv.reader goes over the lines of an open file one by one, so only one of them is held at a time.",
    "To write a list of dicts use csv.DictWriter and call writeheader first.",
    "A MemoryError means that the interpreter could not get the memory it asked for.",
  ]],
  ["quiet places to swim near the city, with shade", [
    "The indoor pool at the station is open all winter and crowded on Sundays.",
    "Beyond the mill the river is slow and deep. Old willows hang over the bank, and on weekdays hardly anybody comes.",
    "Shade nets for greenhouses come in green and in white.",
    "The lake in the west has a long lawn without a single tree; bring a parasol.",
    "City buses are free for children on hot days.",
  ]],
];
const MEANINGS = {
  "probability": "calibrated probabilities",
  "sigmoid": "the sigmoid of the log-odds: 0.5 means yes and no are equally likely; not calibrated",
  "log-odds": "log-odds: 0 means yes and no are equally likely, below 0 leans to no",
  "place": "ranks: 1 is the best document",
};

const $ = id => document.getElementById(id);
const add = (parent, tag, className, text) => {
  const node = parent.appendChild(document.createElement(tag));
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
let server = {};  // the answer of /info
let running = null;  // AbortController of the current request
let needsKey = false;  // whether the server has asked for a key

// The form.

function documentsOf(text, blocks) {
  if (blocks) return text.split(/\r?\n[ \t]*\r?\n/).map(part => part.trim()).filter(Boolean);
  const lines = text.split(/\r?\n/).map((line, at) => [line.trim(), at + 1]).filter(([line]) => line);
  if (!lines.length || !lines[0][0].startsWith("{")) return lines.map(([line]) => line);
  return lines.map(([line, number]) => {
    let value;
    try { value = JSON.parse(line); } catch { throw Error(`Line ${number} is not valid JSON.`); }
    if (typeof value?.text !== "string") throw Error(`Line ${number} has no "text".`);
    return typeof value.title === "string" ? { title: value.title, text: value.text } : { text: value.text };
  });
}

function bodyOf() {
  const documents = documentsOf($("documents").value, $("split").value === "blocks");
  const body = { query: $("query").value.trim(), documents };
  if (!body.query) throw Object.assign(Error("Enter a query."), { field: "query" });
  if (!documents.length) throw Object.assign(Error("Enter some documents."), { field: "documents" });
  if ($("instruction").value.trim()) body.instruction = $("instruction").value.trim();
  if ($("scores").value) body.raw_scores = true;
  if ($("long").value) body.long_documents = $("long").value;
  if (+$("top").value > 0) body.top_n = +$("top").value;
  if (server.thinks) body.return_thoughts = true;
  return body;
}

function count() {
  try {
    const many = documentsOf($("documents").value, $("split").value === "blocks").length;
    $("count").textContent = many ? `${many} document${many > 1 ? "s" : ""}` : "";
  } catch (error) { $("count").textContent = error.message; }
}

const headers = () => ({ "content-type": "application/json", ...($("key").value && { authorization: `Bearer ${$("key").value}` }) });

function curlOf(body) {
  const quote = text => "'" + text.replaceAll("'", "'\\''") + "'";
  const key = needsKey ? ' \\\n  -H "authorization: Bearer $API_KEY"' : "";
  return `curl ${quote(new URL("v1/rerank", location.href).href)} \\\n  -H 'content-type: application/json'${key} \\\n  -d ${quote(JSON.stringify(body))}`;
}

// The server.

function errorMessage(answer, body) {
  if (answer.status === 401) return "The server wants an API key, and this one is missing or wrong.";
  const detail = body?.detail;
  const message = Array.isArray(detail) ? detail.map(one => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ") : detail;
  const wait = answer.headers.get("retry-after");
  return `${message || `The server answers with status ${answer.status}`}${wait ? `; try again in ${wait} s` : ""}.`.replace(/\.\.$/, ".");
}

async function readInfo() {
  try {
    const answer = await fetch("info", { headers: headers() });
    if (answer.status === 401) unlock();
    $("model").textContent = answer.status === 401 ? "a key is needed" : answer.status === 503 ? "the model is loading …" : "";
    if (answer.status === 503) setTimeout(readInfo, 1000);
    if (!answer.ok) return;
    server = await answer.json();
    $("model").textContent = `${server.served_model_name}, ${server.max_input_length} tokens a prompt`;
  } catch { $("model").textContent = "the server does not answer"; }
}

function unlock() {
  needsKey = true;
  $("locked").hidden = false;
}

async function rank(event) {
  event?.preventDefault();
  if (running) return stop();
  for (const name of ["query", "documents"]) $(name).removeAttribute("aria-invalid");
  $("error").textContent = "";
  try {
    const body = bodyOf(), begin = performance.now();
    running = new AbortController();
    setBusy(true);
    const answer = await fetch("v1/rerank", { method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal });
    const result = await answer.json().catch(() => null);
    if (answer.status === 401) { unlock(); $("key").focus(); }
    if (!answer.ok || !result) throw Error(errorMessage(answer, result));
    show(result, body, answer.headers, (performance.now() - begin) / 1000);
    if (needsKey && !server.served_model_name) readInfo();
  } catch (error) { showError(error); }
  running = null;
  setBusy(false);
}

function stop() {
  running?.abort();
}

function showError(error) {
  const lost = error instanceof TypeError;  // fetch throws it if no answer came
  $("status").textContent = error.name === "AbortError" ? "Stopped." : "";
  if (error.name !== "AbortError") $("error").textContent = lost ? "The server does not answer." : error.message;
  if (error.field) { $(error.field).setAttribute("aria-invalid", "true"); $(error.field).focus(); }
}

function setBusy(busy) {
  $("results").setAttribute("aria-busy", busy);
  $("go").textContent = busy ? "Stop" : "Rank";
  if (busy) $("status").textContent = "Ranking …";
}

// The answer.

function show(result, body, headers, seconds) {
  const cut = new Set((headers.get("x-prorank-truncated-indices") || "").split(",").filter(Boolean).map(Number));
  const all = result.results.map(hit => hit.relevance_score), meaning = headers.get("x-prorank-scores");
  const scale = Math.max(...all.map(Math.abs), 1e-9), signed = Boolean(body.raw_scores);
  $("hits").replaceChildren();
  result.results.forEach((hit, place) => $("hits").append(itemOf(hit, place, body.documents[hit.index], cut.has(hit.index), signed ? scale : 0)));
  for (const text of document.querySelectorAll(".text")) shorten(text);
  const model = (+headers.get("x-compute-time") / 1000).toFixed(2), tokens = result.usage.total_tokens.toLocaleString("en");
  const cuts = +headers.get("x-prorank-truncated-documents"), queries = +headers.get("x-prorank-truncated-queries");
  $("status").textContent = `${body.documents.length} documents, ${tokens} tokens in ${seconds.toFixed(2)} s (server ${model} s). `
    + `Scores are ${MEANINGS[meaning] || "the server's"}.`
    + (cuts ? ` ${cuts} cut: too long for the model.` : "") + (queries ? " The query was cut, too." : "");
  $("curl").textContent = curlOf(body);
  $("command").hidden = false;
  if ($("results").getBoundingClientRect().top > innerHeight * 0.8) $("results").scrollIntoView();
}

function itemOf(hit, place, document_, cut, scale) {
  const item = document.createElement("li"), left = add(item, "div"), right = add(item, "div"), up = hit.index - place;
  item.className = "hit";
  item.dataset.index = hit.index;
  add(left, "span", "place", `${place + 1} `);
  const move = add(left, "span", `move ${up > 0 ? "up" : up < 0 ? "down" : ""}`);
  add(move, "span", "", up > 0 ? `▲${up}` : up < 0 ? `▼${-up}` : "=").setAttribute("aria-hidden", "true");
  add(move, "span", "unseen", up > 0 ? `up ${up}` : up < 0 ? `down ${-up}` : "unmoved");
  if (up) add(left, "span", "was", `was ${hit.index + 1}`);
  bar(add(right, "div", "measure"), hit.relevance_score, scale);
  if (document_.title) add(right, "p", "title", document_.title);
  add(right, "p", "text short", document_.text ?? document_);
  if (cut) add(right, "span", "cut", "✂ cut: only the beginning was read");
  if (hit.thought != null) thought(right, hit);
  return item;
}

// A bar from 0 to 1; for log-odds (scale > 0) to both sides of a zero in the middle.
function bar(parent, score, scale) {
  const fill = add(add(parent, "div", "track"), "div", scale && score < 0 ? "fill below" : "fill");
  fill.parentNode.setAttribute("aria-hidden", "true");
  const width = scale ? 50 * Math.abs(score) / scale : 100 * Math.min(1, Math.max(0, score));
  fill.style.width = `${width}%`;
  fill.style.left = `${scale ? (score < 0 ? 50 - width : 50) : 0}%`;
  add(parent, "span", "score", (scale && score > 0 ? "+" : "") + score.toFixed(3));
}

function thought(parent, hit) {
  const box = add(parent, "details", "thought");
  box.open = true;
  add(box, "summary", "", hit.thought_cut ? "Thought (cut when its budget ran out)" : "Thought");
  add(box, "p", "", hit.thought);
}

function shorten(text) {
  if (text.scrollHeight <= text.clientHeight + 2) return;
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  const update = () => {
    const short = text.classList.contains("short");
    more.textContent = short ? "Show all" : "Show less";
    more.setAttribute("aria-expanded", !short);
  };
  more.onclick = () => { text.classList.toggle("short"); update(); };
  update();
  text.after(more);
}

// Files, keys, and the clipboard, which browsers offer only over https and on localhost.

async function loadFile(file) {
  if (!file) return;
  $("documents").value = await file.text();
  if (file.name.endsWith("l") || file.name.endsWith("json")) $("split").value = "lines";
  count();
}

async function copy() {
  const report = text => { $("copy").textContent = text; setTimeout(() => { $("copy").textContent = "Copy"; }, 2000); };
  try { await navigator.clipboard.writeText($("curl").textContent); report("Copied"); } catch {
    getSelection().selectAllChildren($("curl"));
    report(document.execCommand("copy") ? "Copied" : "Press Ctrl C");
  }
}

EXAMPLES.forEach(([query], at) => { add($("example"), "option", "", query).value = at; });
$("example").onchange = () => {
  const [query, documents] = EXAMPLES[$("example").value] || [];
  if (!query) return;
  $("query").value = query;
  $("documents").value = documents.join("\n");
  $("split").value = "lines";
  count();
};
$("request").noValidate = true;  // the page's own messages name the field and are read aloud
$("request").onsubmit = rank;
$("documents").oninput = $("split").onchange = count;
$("file").onchange = () => loadFile($("file").files[0]).then(() => { $("file").value = ""; });
$("key").onchange = readInfo;
$("copy").onclick = copy;
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  $("documents").addEventListener(kind, event => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("documents").classList.toggle("over", kind.startsWith("drage") || kind === "dragover");
    if (kind === "drop") loadFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) rank(event);
  if (event.key === "Escape") stop();
});
readInfo();
