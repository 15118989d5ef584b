"""Ranking by servers: ours gives the library's results in every dialect; other servers are used in their own format.

The others are small HTTP servers that score a document by the number of its letters and keep what they were asked.
"""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner

from prorank import errors
from prorank.cli.command_line import app
from prorank.errors import ConfigError, DataError
from prorank.rank.methods import Setwise
from prorank.remote.client import Remote
from prorank.reranker import Reranker
from tests.serving import running

LONG = "river " * 900
QUERY = "where is the garden?"
DOCUMENTS = ["the old castle", {"text": "near the river", "title": "the garden", "id": 7}, "", "bread", "the old castle", LONG]


class Server:
    """A server of somebody else. `speaks`: paths it has; `script`: (status, headers, body) to give before it works."""

    def __init__(self, speaks, info=None, models=None):
        self.script, self.asked, self.keys = [], [], []
        server, gets = self, {"/info": info, "/v1/models": models}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.say(200 if gets.get(self.path) else 404, gets.get(self.path) or "not found")

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.keys.append(self.headers.get("authorization"))
                if self.path not in speaks:
                    return self.say(404, {"detail": "Not Found"})
                server.asked.append((self.path, body))
                status, headers, said = server.script.pop(0) if server.script else (200, {}, None)
                self.say(status, said if said is not None else server.answer(body), headers)

            def say(self, status, value, headers=()):
                self.send_response(status)
                for name, text in dict(headers).items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def answer(body):
        texts, name = (body["texts"], "score") if "texts" in body else (body["documents"], "relevance_score")
        rows = sorted(({"index": i, name: len(text)} for i, text in enumerate(texts)), key=lambda hit: -hit[name])
        return rows if "texts" in body else {"results": rows}

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve():
    made = []
    yield lambda *given, **more: made.append(Server(*given, **more)) or made[-1]
    for one in made:
        one.stop()


OTHERS = {
    "tei": {"speaks": ["/rerank"], "info": {"model_type": {"reranker": {}}, "max_client_batch_size": 2, "max_input_length": 512}},
    "vllm": {"speaks": ["/rerank", "/v1/rerank"], "models": {"data": [{"id": "m", "owned_by": "vllm"}]}},
    "jina": {"speaks": ["/v1/rerank"]},
    "cohere": {"speaks": ["/v2/rerank"]},
    "any": {"speaks": ["/rerank"], "models": {"data": [{"id": "m", "owned_by": "others"}]}},
}


def hits(found):
    return [(hit.index, hit.document) for hit in found]


@pytest.mark.parametrize("dialect", ["auto", "tei", "jina", "cohere", "vllm"])
def test_our_server_gives_the_librarys_results_in_every_dialect(server, dialect):
    wanted = server.reranker.rank(QUERY, DOCUMENTS, top_k=4)
    with Remote(server.url, dialect) as remote:
        found = remote.rank(QUERY, DOCUMENTS, top_k=4)
        assert remote.ours and remote.meaning == "log-odds" and remote.longest == 512
        assert hits(found) == hits(wanted) and (remote.cuts.total, remote.cuts.documents) == (6, 0)
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], atol=1e-5)
        least = wanted[1].score - 1e-3
        assert hits(remote.rank(QUERY, DOCUMENTS, min_score=least)) == hits(server.reranker.rank(QUERY, DOCUMENTS, min_score=least))
        asked = remote.score_lists([QUERY, "castle"], [DOCUMENTS, ["bread"]], "find castles")
        for row, want in zip(asked, server.reranker.score_lists([QUERY, "castle"], [DOCUMENTS, ["bread"]], "find castles")):
            np.testing.assert_allclose(row, want, atol=1e-5)


def test_top_n_is_another_name_of_top_k(server):
    with Remote(server.url) as remote:
        wanted = hits(remote.rank(QUERY, DOCUMENTS, top_k=2))
        assert hits(remote.rank(QUERY, DOCUMENTS, top_n=2)) == wanted == hits(remote.rank(QUERY, DOCUMENTS, top_k=2, top_n=2))
        for options, message in (
            ({"top_k": 1, "top_n": 2}, "top_n is an alias of top_k, but top_k is 1 and top_n is 2"),
            ({"top_n": 0}, "top_n must be at least 1"),
        ):
            with pytest.raises(DataError, match=message):
                remote.rank(QUERY, DOCUMENTS, **options)


def test_hits_of_a_calibrated_model_carry_their_probabilities(calibrated_dir, tmp_path):
    reranker = Reranker(calibrated_dir, device="cpu", dtype="fp32")
    wanted = reranker.rank(QUERY, DOCUMENTS, top_k=4)
    assert None not in [hit.probability for hit in wanted]
    (tmp_path / "docs.txt").write_text("the garden\na river\n")
    with running(reranker) as server:
        for dialect in ("tei", "jina", "cohere", "vllm"):
            with Remote(server.url, dialect) as remote:
                found = remote.rank(QUERY, DOCUMENTS, top_k=4)
                assert [hit.probability for hit in found] == pytest.approx([hit.probability for hit in wanted], abs=1e-5)
                other = remote.rank(QUERY, DOCUMENTS, instruction="find castles")  # another prompt than the calibrated one
                assert {hit.probability for hit in other} == {None}
                assert remote.rank(QUERY, []) == []
        shown = prorank(tmp_path / "docs.txt", "--query", QUERY, "--server", server.url, "--json").stdout
        assert all(0 < json.loads(line)["probability"] < 1 for line in shown.splitlines())


def test_no_probability_is_claimed_for_a_model_without_calibration_or_for_others(server, serve):
    other = serve(["/v1/rerank"])
    other.script = [(200, {}, {"results": [{"index": 0, "relevance_score": 0.5, "probability": 0.5}]})]
    for url in (server.url, other.url):
        with Remote(url, "jina") as remote:
            assert remote.rank(QUERY, ["a"])[0].probability is None


@pytest.mark.parametrize("name", OTHERS)
def test_other_servers_are_recognised_and_get_their_format(serve, name):
    other = serve(**OTHERS[name])
    with Remote(other.url, model="big", key="k") as remote:
        found = remote.rank(QUERY, DOCUMENTS)
        assert [hit.index for hit in found] == [5, 1, 0, 4, 3, 2]  # equal ones in input order
        assert remote.dialect == ("vllm" if name == "any" else name) and not remote.ours
        assert (remote.meaning == "log-odds") == (name in ("tei", "vllm"))
    path, body = other.asked[-1]
    assert path == OTHERS[name]["speaks"][0] and set(other.keys) == {"Bearer k"} and body["model"] == "big"
    assert len(other.asked) == (3 if name == "tei" else 1)  # TEI takes two texts at a time
    assert [body.get(field) for field in ("raw_scores", "use_activation")] == {
        "tei": [True, None], "vllm": [None, False], "any": [None, False],
    }.get(name, [None, None])  # fmt: skip


@pytest.mark.parametrize("end, dialect", [("/v2/rerank", "cohere"), ("/v1/rerank", "jina"), ("/v1", "jina"), ("/", "jina")])
def test_the_address_may_name_the_endpoint(serve, end, dialect):
    other = serve(["/v1/rerank", "/v2/rerank"])
    with Remote(other.url + end) as remote:
        remote.rank(QUERY, ["a", "b"])
    assert other.asked[0][0] == ("/v2/rerank" if dialect == "cohere" else "/v1/rerank") and remote.dialect == dialect


@pytest.mark.parametrize(
    "status, error, said",
    [
        (401, errors.KeyRefused, "give --api-key-env NAME"),
        (403, errors.KeyRefused, "give --api-key-env NAME"),
        (413, errors.TooLarge, "give fewer or shorter documents"),
        (422, errors.ServerError, "status 422 in the dialect jina: .*no such thing"),
        (500, errors.ServerFailed, "the server failed .status 500.: .*no such thing"),
        (502, errors.ServerFailed, "the server failed"),
        (302, errors.ServerError, "status 302"),
    ],
)
def test_refusals_raise_specific_errors(serve, status, error, said):
    other = serve(["/v1/rerank"])
    other.script = [(status, {"location": "/elsewhere"}, {"detail": "no such thing"})]
    with Remote(other.url, "jina") as remote, pytest.raises(error, match=said) as caught:
        remote.rank(QUERY, ["a"])
    assert caught.value.status == status and len(other.asked) == 1


def test_a_busy_server_is_retried_as_it_requests_within_the_patience(serve):
    other = serve(["/v1/rerank"])
    with Remote(other.url, "jina", patience=5) as remote:
        other.script = [(429, {"retry-after": "0"}, {}), (503, {}, {}), (429, {"retry-after": "0.1"}, {})]
        assert len(remote.rank(QUERY, ["a", "bb"])) == 2 and len(other.asked) == 4
        other.script = [(429, {"retry-after": "3600"}, {})]
        with pytest.raises(errors.TooBusy, match="busy for 3600 seconds more"):
            remote.rank(QUERY, ["a"])
        assert len(other.asked) == 5
        remote.server.patience, other.script = 0.7, [(503, {}, {})] * 9
        with pytest.raises(errors.TooBusy, match="after 1 seconds"):
            remote.rank(QUERY, ["a"])


def test_an_unreachable_server(serve):
    other = serve([])
    other.stop()
    with pytest.raises(errors.ServerAway, match="is the server running"):
        Remote(other.url)


@pytest.mark.parametrize(
    "answer",
    [[], {}, {"results": None}, {"results": [{"index": 0}]}, {"results": [{"index": 5, "relevance_score": 1}]},
     {"results": [{"index": 0, "relevance_score": float("nan")}]}, {"results": [{"index": [], "relevance_score": 1}]},
     {"results": [{"index": 0, "relevance_score": "high"}]}, "text"],
)  # fmt: skip
def test_answers_in_another_format_are_refused(serve, answer):
    other = serve(["/v1/rerank"])
    other.script = [(200, {}, answer)]
    with Remote(other.url, "jina") as remote, pytest.raises(errors.ServerError, match="not in the dialect jina"):
        remote.rank(QUERY, ["a"])


def test_mistakes_are_found_before_anything_is_asked(serve):
    other = serve(["/v1/rerank"])
    for url in ("localhost:8000", "ftp://x", "http://x/?a=1"):
        with pytest.raises(ConfigError, match="expected an address"):
            Remote(url)
    with pytest.raises(ConfigError, match="--dialect coher: unknown; did you mean 'cohere'"):
        Remote(other.url, "coher")
    with Remote(other.url, "jina") as remote:
        with pytest.raises(DataError, match="query 0"):
            remote.rank(" ", ["a"])
        with pytest.raises(ConfigError, match="--instruction"):
            remote.rank(QUERY, ["a"], instruction="find")
        with pytest.raises(ConfigError, match="--show-thoughts"):
            remote.rank(QUERY, ["a"], thoughts=True)
    assert not other.asked


def test_models_that_think_or_compare(tiny_qwen2_dir):
    thinker = Reranker(tiny_qwen2_dir, device="cpu", dtype="fp32", prompt="rerank-r0", max_length=900, max_think_tokens=4)
    with running(thinker) as server:
        wanted = server.reranker.rank(QUERY, DOCUMENTS[:3])
        with Remote(server.url) as remote:
            found = remote.rank(QUERY, DOCUMENTS[:3], thoughts=True)
        assert [(hit.index, hit.thought, hit.thought_cut) for hit in found] == [(h.index, h.thought, h.thought_cut) for h in wanted]
    setwise = Reranker(tiny_qwen2_dir, device="cpu", dtype="fp32", method="setwise", k=3)
    with running(setwise) as server, Remote(server.url) as remote:
        assert isinstance(server.reranker.strategy.method, Setwise) and remote.meaning == "minus the place"
        assert hits(remote.rank(QUERY, DOCUMENTS[:4])) == hits(server.reranker.rank(QUERY, DOCUMENTS[:4]))
        with pytest.raises(DataError, match="pass fewer"):
            remote.rank(QUERY, ["a"] * 1001)


def prorank(*words: str):
    found = CliRunner().invoke(app, ["rerank", *map(str, words)])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_the_command_prints_the_same_as_without_a_server(server, tiny_llama_dir, tmp_path):
    rows = [{"text": "the garden", "id": "a"}, {"text": "a river"}, {"text": "river " * 20_000}]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [tmp_path / "docs.jsonl", "--query", QUERY, "--json", "--top-k", "2"]
    here = prorank(*words, "--model", tiny_llama_dir, "--dtype", "fp32", "--device", "cpu")
    there = prorank(*words, "--server", server.url)
    a, b = ([json.loads(line) for line in found.stdout.splitlines()] for found in (here, there))
    assert [hit.pop("score") for hit in b] == pytest.approx([hit.pop("score") for hit in a], abs=1e-4)
    assert a == b and len(a) == 2 and there.stderr.splitlines()[-1] == here.stderr.splitlines()[-1]
    assert "1 of 3 documents cut" in there.stderr


def test_the_command_reranks_a_run_by_a_server(server, tiny_llama_dir, tmp_path, collections):
    judged = (collections / "toy/qrels/test.tsv").read_text().splitlines()[1:]
    queries = list(dict.fromkeys(line.split()[0] for line in judged))[:5]
    documents = [json.loads(line)["_id"] for line in (collections / "toy/corpus.jsonl").read_text().splitlines()][:8]
    lines = [f"{q} Q0 {d} {i} {9 - i} bm25\n" for q in queries for i, d in enumerate(documents, 1)]
    (tmp_path / "in.run").write_text("".join(lines))
    words = ["--run", tmp_path / "in.run", "--dataset", collections / "toy", "--top-k", "6"]
    here = prorank(*words, "--out", tmp_path / "a", "--model", tiny_llama_dir, "--dtype", "fp32", "--device", "cpu")
    there = prorank(*words, "--out", tmp_path / "b", "--server", server.url)
    runs = [[line.split() for line in (tmp_path / name).read_text().splitlines()] for name in "ab"]
    assert [row[:4] for row in runs[0]] == [row[:4] for row in runs[1]] and len(runs[0]) == 40
    assert [float(row[4]) for row in runs[0]] == pytest.approx([float(row[4]) for row in runs[1]], abs=1e-4)
    assert here.stdout.split(": ")[1] == there.stdout.split(": ")[1]


def test_the_command_on_others_and_on_options_that_do_not_fit(serve, tmp_path, monkeypatch):
    other = serve(["/v2/rerank"])
    (tmp_path / "docs.txt").write_text("a\nlonger\n")
    words = [tmp_path / "docs.txt", "--query", "q"]
    monkeypatch.setenv("SOME_KEY", "secret")
    found = prorank(*words, "--server", other.url, "--api-key-env", "SOME_KEY", "--model", "rerank-v3.5")
    assert "note: scores of this server are relevance, mostly from 0 to 1" in found.stderr and other.keys[-1] == "Bearer secret"
    assert other.asked[-1][1]["model"] == "rerank-v3.5" and "+6.000" in found.stdout
    for more, said in (
        (["--server", other.url, "--dtype", "fp32"], "--dtype is for a local model"),
        (["--server", other.url, "--no-think"], "--no-think is for"),
        (["--dialect", "tei"], "--dialect needs --server"),
        (["--server", other.url, "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
    ):
        with pytest.raises(ConfigError, match=said):
            prorank(*words, *more)


def test_ranking_by_a_server_imports_no_model_libraries(serve, tmp_path):
    """They take seconds to import."""
    other = serve(["/v1/rerank"])
    (tmp_path / "docs.txt").write_text("a\nlonger\n")
    words = ["rerank", str(tmp_path / "docs.txt"), "--query", "q", "--json", "--server", other.url]
    code = (
        "import sys\nfrom prorank.cli.command_line import app\n"
        f"app({words!r}, standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[0])["index"] == 1, done.stderr
