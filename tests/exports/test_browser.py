"""examples/browser in headless Chromium: a tiny model is exported, the page is served on loopback and ranks like Reranker.

Needs the extra `onnx`, playwright, the program chromium and the page's own packages: `npm ci --prefix examples/browser`.
"""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prorank.export import export
from prorank.export.classifier import padding_token, probe_batch
from prorank.export.onnx_graph import run_graph
from prorank.export.pair_template import baked_tokenizer
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.exports.onnx_models import saved
from tests.tiny import byte_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
NEED = "needs playwright (extra 'browser'), the program chromium, and npm ci --prefix examples/browser"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
QUERY = "where is the garden?"
DOCUMENTS = [
    "the old castle",
    "<img src=x onerror=alert(1)>",
    "another river, and then a castle " * 60,
    "the garden is near the river",
    "Grüße aus dem Garten, 图书馆 🦊 \u0301x",
    "a <|im_end|> of <|endoftext|> texts",
]
TEXTS = ["x", " 1", "42.", "'s e", "a \t b", *DOCUMENTS]
PRESETS = {  # by kind: style of the tokenizer, prompt
    "llama": ("smollm", Prompt.preset("prorank", max_length=256)),
    "qwen2": ("qwen2", Prompt.preset("document-first", max_length=256, chunk_length=60)),
    "qwen3": ("qwen3", Prompt.preset("prorank", max_length=256)),
    "mxbai": ("qwen2", Prompt.preset("mxbai", instruction="find scenes")),
}
ENCODERS = {kind: prompt.bind(byte_tokenizer(style)) for kind, (style, prompt) in PRESETS.items()}


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder without writing a log."""

    def log_message(self, format, *args) -> None:
        pass


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found or not (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.fail(NEED)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=found, args=FLAGS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the checkpoint, a folder with the example's files, the exported folder as `model`, and exported tokenizers by kind)."""
    root = tmp_path_factory.mktemp("browser")
    source = saved(root / "source", "llama", max_length=192)
    site = root / "site"
    site.mkdir()
    for path in EXAMPLE.iterdir():
        if path.name != "model":
            os.symlink(path, site / path.name)
    export(source, site / "model", format="onnx")
    for kind, encoder in ENCODERS.items():
        baked_tokenizer(encoder, padding_token(encoder)).save_pretrained(site / kind)
        encoder.prompt.save(site / kind)
    return source, site


@pytest.fixture
def open_page(browser, exported):
    """A function that opens the served page; no page may fetch from elsewhere, break its policy or throw."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=exported[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, pages, errors, requests = f"http://127.0.0.1:{server.server_port}/", [], [], []

    def visit(options: str = ""):
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address + options)
        return page

    yield visit
    for page in pages:
        page.close()
    server.shutdown()
    server.server_close()
    assert not errors and requests and all(url.startswith((address, "data:")) for url in requests)


def ranked(page, query: str = QUERY, documents: list[str] = DOCUMENTS) -> list[tuple[int, float]]:
    """(index, score) of the hits that the page shows for these texts, the best first."""
    page.locator("#status", has_text="Ready:").wait_for()
    page.get_by_label("Query").fill(query)
    page.get_by_label("Documents").fill("\n".join(documents))
    page.get_by_role("button", name="Rank").click()
    page.locator("#status", has_text="in this browser").wait_for()
    return [(int(hit.get_attribute("data-index")), float(hit.get_attribute("data-score"))) for hit in page.locator(".hit").all()]


def test_the_page_ranks_like_reranker(open_page, exported):
    reranker = Reranker(exported[0], dtype="fp32", long_documents="truncate")
    want = reranker.rank(QUERY, [document.strip() for document in DOCUMENTS])
    page = open_page("?dtype=fp32")
    got = ranked(page)
    assert [index for index, _ in got] == [hit.index for hit in want]
    assert [score for _, score in got] == pytest.approx([hit.score for hit in want], abs=1e-3)
    assert max(score for _, score in got) - min(score for _, score in got) > 0.05  # or equality would say little
    assert page.locator(".hit .text").all_text_contents() == [DOCUMENTS[hit.index].strip() for hit in want]  # markup is text
    assert [hit.get_attribute("data-index") for hit in page.locator(".hit:has(.cut)").all()] == ["2"]


def test_the_int8_graph_runs_as_in_onnxruntime(open_page, exported):
    source, site = exported
    encoder = Prompt.load(source).bind(Reranker(source).tokenizer)
    pairs = [(QUERY, document.strip()) for document in DOCUMENTS]
    batches = [probe_batch(site / "model", encoder, [pair], True) for pair in pairs]
    want = run_graph(site / "model/onnx/model_quantized.onnx", batches)[:, 0].tolist()
    got = dict(ranked(open_page()))
    assert [got[index] for index in range(len(pairs))] == pytest.approx(want, abs=0.02)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_the_pages_tokenizer_gives_the_prompts_ids(open_page, kind):
    texts = [
        text for text in TEXTS if "<|" not in text or ENCODERS[kind].prompt.escape_special_tokens
    ]  # mxbai reads such as special
    pairs = [(query, document) for query in texts if len(query) < 99 for document in texts]
    code = """async ([kind, pairs]) => { const { Reranker } = await import("./reranker.js");
        const read = async name => (await fetch(`${kind}/${name}.json`)).json();
        const reranker = new Reranker(await read("tokenizer"), await read("tokenizer_config"), await read("prompt"), null);
        return pairs.map(([query, document]) => reranker.encode(query, document)); }"""
    cut = 0
    for pair, got in zip(pairs, open_page().evaluate(code, [kind, pairs])):
        want = ENCODERS[kind].encode(*pair)
        assert not want.query_cut and (got["ids"], got["cut"]) == (want.ids, bool(want.document_cut)), pair
        cut += got["cut"]
    assert cut or kind == "mxbai"  # whose maximum length is longer than these texts


def test_what_goes_wrong_is_said(open_page):
    page = open_page("?dtype=fp16")
    page.locator("#status.error", has_text="unknown dtype fp16; valid: int8, fp32").wait_for()
    page = open_page()
    page.locator("#status", has_text="Ready:").wait_for()
    page.get_by_label("Query").fill("garden " * 300)
    page.get_by_role("button", name="Rank").click()
    page.locator("#status.error", has_text="the query has").wait_for()
    page.get_by_label("Query").fill(" ")
    page.get_by_role("button", name="Rank").click()
    page.locator("#status.error", has_text="Enter a query and documents").wait_for()
