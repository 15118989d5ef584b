"""The playground: what is sent, and how it works under the hands of somebody in a browser.

The browser is the machine's own Chromium, without a window; where there is none its tests are skipped, unless
PRORANK_BROWSER is set, as `make test-browser` does.
"""

import json
import os
import re
import shlex
import shutil

import pytest

from prorank.reranker import Reranker
from prorank.serve import playground
from tests.serving import running, slowed, wait_for

LONG = "another river, and then a castle " * 60
DOCUMENTS = ["the old castle", "<img src=x onerror=alert(1)>", LONG, "the garden is near the river", 'it\'s a "horse"']
NEED = "needs playwright (extra 'browser') and the program chromium"


def test_the_page_is_three_files_that_forbid_other_hosts(server):
    for path, (name, kind) in playground.FILES.items():
        answer = server.client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"] == f"{kind}; charset=utf-8", name
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "://" not in policy + answer.text
    assert "innerHTML" not in server.client.get("/playground.js").text
    assert not re.search(r" on\w+=|style=|<script>|<style>", server.client.get("/").text)  # the policy would forbid them


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if not found:
        (pytest.fail if os.environ.get("PRORANK_BROWSER") else pytest.skip)(NEED)
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def visit(browser):
    """A function that opens a server's page; at the end no page may have broken its policy or thrown."""
    pages, said = [], []

    def open_page(server, **more):
        pages.append(browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | more)))
        pages[-1].on("pageerror", lambda error: said.append(str(error)))
        pages[-1].on("console", lambda line: said.append(line.text) if "Content Security" in line.text else None)
        pages[-1].goto(server.url + "/")
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()
    assert not said


def fill(page, query: str = "where is the garden?", documents=DOCUMENTS) -> None:
    page.get_by_label("Query").fill(query)
    page.get_by_label("Documents", exact=True).fill("\n".join(documents))


def says(page, place: str, text: str) -> None:
    """Wait until there is this text. (The policy forbids the page's own eval, by which Playwright waits for expressions.)"""
    page.locator(place, has_text=text).wait_for()


def ranked(page) -> list[int]:
    """Input places of the hits that are shown, after the answer has come."""
    page.locator("#results[aria-busy=false] .hit").first.wait_for()
    return [int(hit.get_attribute("data-index")) for hit in page.locator(".hit").all()]


def test_ranks_by_keyboard_and_shows_what_changed(server, visit):
    page = visit(server)
    says(page, "#model", "tiny, 512 tokens a prompt")
    fill(page)
    page.keyboard.press("Control+Enter")
    wanted = [hit.index for hit in server.reranker.rank("where is the garden?", DOCUMENTS)]
    assert ranked(page) == wanted
    for place, (index, hit) in enumerate(zip(wanted, page.locator(".hit").all())):
        assert hit.locator(".text").text_content() == DOCUMENTS[index].strip()  # markup is text
        change = index - place
        word = f"up {change}" if change > 0 else f"down {-change}" if change else "unmoved"
        assert hit.locator(".unseen").text_content() == word
        assert hit.locator(".cut").count() == (index == 2)
    assert page.locator(".hit img").count() == 0
    assert re.match(r"5 documents, [\d,]+ tokens in \d+\.\d\d s .*1 cut", page.locator("#status").text_content())
    assert page.get_by_role("button", name="Show all").count() == 1


def test_chinese_texts_are_ranked_and_shown(server, visit):
    page, documents = visit(server), ["古老的花园就在附近。", "那里有面包，很多人喜欢。"]
    fill(page, "哪里有花园？", documents)
    page.get_by_role("button", name="Rank").click()
    assert ranked(page) == [hit.index for hit in server.reranker.rank("哪里有花园？", documents)]
    assert {hit.locator(".text").text_content() for hit in page.locator(".hit").all()} == set(documents)
    words = shlex.split(page.locator("#curl").text_content().replace("\\\n", " "))
    assert json.loads(words[-1])["query"] == "哪里有花园？"


def test_the_curl_command_gives_the_same_order(server, visit):
    page = visit(server)
    fill(page)
    page.get_by_role("button", name="Rank").click()
    order = ranked(page)
    words = shlex.split(page.locator("#curl").text_content().replace("\\\n", " "))
    assert words[:2] == ["curl", server.url + "/v1/rerank"] and words[-2] == "-d"
    assert [hit["index"] for hit in server.post("/v1/rerank", json.loads(words[-1])).json()["results"]] == order


def test_examples_options_and_log_odds(server, visit):
    page = visit(server)
    page.get_by_label("Example").select_option(index=1)
    assert page.locator("#count").text_content() == "6 documents"
    page.get_by_text("Options").click()
    page.get_by_label("Scores").select_option("raw")
    page.get_by_label("Hits at most").fill("2")
    page.get_by_label("Hits at most").press("Enter")
    assert len(ranked(page)) == 2
    assert "log-odds" in page.locator("#status").text_content()
    assert all(re.fullmatch(r"[+-]?\d+\.\d{3}", text) for text in page.locator(".score").all_text_contents())


def test_files_and_blocks(server, visit, tmp_path):
    page = visit(server)
    rows = [{"title": "Castle", "text": "an old one", "id": 1}, {"text": "a garden"}]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page.get_by_label("Query").fill("garden")
    page.get_by_label("Open a file").set_input_files(tmp_path / "docs.jsonl")
    says(page, "#count", "2 documents")
    page.get_by_role("button", name="Rank").click()
    assert sorted(ranked(page)) == [0, 1] and page.locator(".title").text_content() == "Castle"
    page.get_by_label("Documents", exact=True).fill("one\nstill one\n\ntwo\n \nthree")
    page.get_by_label("A document is").select_option("blocks")
    assert page.locator("#count").text_content() == "3 documents"
    page.get_by_label("A document is").select_option("lines")
    drop = """text => { const data = new DataTransfer(); data.items.add(new File([text], "more.txt"));
        for (const kind of ["dragover", "drop"])
            document.querySelector("#documents").dispatchEvent(new DragEvent(kind, {dataTransfer: data, cancelable: true})); }"""
    page.evaluate(drop, "dropped\nlines")
    wait_for(lambda: page.locator("#documents").input_value() == "dropped\nlines")


@pytest.mark.parametrize(
    "query, documents, message, field",
    [
        (" ", "a", "Enter a query.", "query"),
        ("q", " \n ", "Enter some documents.", "documents"),
        ("q", '{"text": "a"}\n\n{"text": 3}', 'Line 3 has no "text".', None),
        ("q", '{"text": "a"}\n{', "Line 2 is not valid JSON.", None),
        ("q", "x\n" * 1001, "1001 documents are more than 1000", None),
    ],
)
def test_mistakes_are_told_and_the_field_is_found(server, visit, query, documents, message, field):
    page = visit(server)
    fill(page, query, [documents])
    page.get_by_role("button", name="Rank").click()
    says(page, "#error", message)
    if field:
        assert page.evaluate("document.activeElement.id") == field and page.locator(f"#{field}[aria-invalid=true]").count() == 1


def test_a_key_is_asked_for_where_the_server_wants_one(tiny_llama_dir, visit):
    with running(Reranker(tiny_llama_dir, device="cpu", dtype="fp32"), key="open sesame") as server:
        page = visit(server)
        page.get_by_label("API key").wait_for()
        fill(page)
        page.keyboard.press("Control+Enter")
        says(page, "#error", "wants an API key")
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("open sesame")
        page.keyboard.press("Control+Enter")
        assert len(ranked(page)) == 5
        assert "$API_KEY" in page.locator("#curl").text_content() and "sesame" not in page.locator("#curl").text_content()


def test_thoughts_are_unfolded(tiny_qwen2_dir, visit):
    reranker = Reranker(tiny_qwen2_dir, device="cpu", dtype="fp32", prompt="rerank-r0", max_length=900, max_think_tokens=4)
    with running(reranker) as server:
        page = visit(server)
        says(page, "#model", "tiny")
        fill(page, documents=["a garden", "a river"])
        page.keyboard.press("Control+Enter")
        order = ranked(page)
        asked = {"query": "where is the garden?", "documents": ["a garden", "a river"], "return_thoughts": True}
        thoughts = [hit["thought"] for hit in server.post("/v1/rerank", asked).json()["results"]]
        assert len(order) == 2 and page.locator("details.thought[open] p").all_text_contents() == thoughts


def test_a_request_can_be_stopped_and_a_server_that_is_gone_is_told(tiny_llama_dir, visit):
    with running(Reranker(tiny_llama_dir, device="cpu", dtype="fp32")) as server:
        page = visit(server)
        slowed(server.service, 1)
        fill(page)
        page.keyboard.press("Control+Enter")
        page.get_by_role("button", name="Stop").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Rank").wait_for()
        assert page.locator("#status").text_content() == "Stopped." and not page.locator("#error").text_content()
        wait_for(lambda: not server.service.admission.requests)
    page.get_by_role("button", name="Rank").click()
    says(page, "#error", "The server does not answer.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window_and_all_is_readable(server, visit, width, scheme):
    page = visit(server, viewport={"width": width, "height": 800}, color_scheme=scheme)
    fill(page, documents=[*DOCUMENTS, "x" * 3000])
    page.keyboard.press("Control+Enter")
    assert len(ranked(page)) == 6
    page.locator("#command summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    faint = page.evaluate(CONTRAST)
    assert not faint, faint  # WCAG AA


def test_tab_goes_through_the_form_in_its_order(server, visit):
    page = visit(server)
    page.get_by_label("Example").focus()
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert order == ["query", "documents", "split", "file", "SUMMARY", "go"]
    nameless = "[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).map(e => e.id)"
    assert page.evaluate(nameless) == []


# Texts whose contrast to the nearest opaque ground is below 4.5 to 1.
CONTRAST = """() => {
  const rgba = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => rgba(text).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = node => { for (; node; node = node.parentElement) {
    const [r, g, b, a = 1] = rgba(getComputedStyle(node).backgroundColor); if (a) return `rgb(${r},${g},${b})`; }
    return "rgb(255,255,255)"; };
  return [...document.querySelectorAll("body *")].filter(node => node.checkVisibility()
    && [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())).flatMap(node => {
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    return ratio < 4.5 ? [`${node.tagName}.${node.className} ${ratio.toFixed(2)}`] : []; });
}"""
