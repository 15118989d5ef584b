"""The examples for search engines against the real packages, and responses through the clients of OpenSearch and Elasticsearch.

Few documents and a tiny model; one test has the default model. The example of SQLite is in tests/test_search_examples.py.
"""

import importlib
import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from prorank.integrations.lancedb import ProRankReranker
from prorank.integrations.opensearch import rerank_response
from prorank.reranker import Reranker
from tests.test_search_examples import FOLDER, QUESTION, printed_orders
from tests.test_search_response import QUERY, TEXTS, respond

ENGINES = ["sqlite_fts5", "duckdb_fts", "tantivy_bm25", "qdrant_hybrid", "lancedb_hybrid"]
MODULES = ("shutil.", "tempfile.", "textwrap.", "heapq.")


@pytest.fixture(scope="module")
def examples():
    """The module of an example by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module


@pytest.fixture(scope="module")
def library(examples):
    """The documents of a few modules, under the name by which all examples read them."""
    module = examples("standard_library")
    few = [document for document in module.documents() if document["id"].startswith(MODULES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "documents", lambda: few)
        yield module


@pytest.fixture(scope="module")
def searches(examples, library, tmp_path_factory) -> dict[str, Callable[[str], list[dict]]]:
    """The search of each engine over the documents."""
    search_of, folder = examples("compare").search_of, str(tmp_path_factory.mktemp("lancedb"))
    return {engine: search_of(engine, library.documents(), folder) for engine in ENGINES}


@pytest.fixture(scope="module")
def reranker(tiny_llama_dir) -> Reranker:
    return Reranker(tiny_llama_dir, device="cpu", dtype="fp32")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_finds_documents_by_their_words(engine, searches, library):
    """A function is found by other forms of the words of its docstring, and its fields come back as they were."""
    by_id = {document["id"]: document for document in library.documents()}
    wanted_by_query = {"return disk usage statistics": "shutil.disk_usage", "removes common whitespaces": "textwrap.dedent"}
    for query, wanted in wanted_by_query.items():
        found = searches[engine](query)
        ids = [document["id"] for document in found]
        assert 0 < len(ids) <= 20 and len(set(ids)) == len(ids) and wanted in ids[:3]
        assert all({key: document[key] for key in ("id", "title", "text")} == by_id[document["id"]] for document in found)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("query", ["AND", 'NEAR("x y", 3) OR *', "it's [a TO b]", "title:", "-", "+", "'; DROP TABLE documents"])
def test_an_engine_takes_every_query(engine, query, searches):
    assert len(searches[engine](query)) <= 20


@pytest.mark.parametrize("engine", ENGINES)
def test_an_example_prints_both_orders(engine, examples, library, searches, reranker, capsys):
    example, candidates = examples(engine), searches[engine](QUESTION)
    ours = partial(ProRankReranker, column="content") if engine == "lancedb_hybrid" else lambda model: model
    example.main(QUESTION, ours(reranker))
    before, after = printed_orders(capsys.readouterr().out)
    assert before == [document["title"] for document in candidates[:5]]
    if engine != "lancedb_hybrid":  # whose reranker also reads what fusion puts below 20
        assert after == [hit.document["title"] for hit in reranker.rank(QUESTION, candidates, top_k=5)]
    assert len(after) == min(5, len(candidates)) > 0


def test_the_lancedb_example_ranks_all_candidates(library, searches, reranker):
    search = searches["lancedb_hybrid"]
    rows = search(QUESTION, reranker=ProRankReranker(reranker, column="content"), limit=20)
    scores = [row["_relevance_score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx(reranker.score([(QUESTION, row["content"]) for row in rows]).tolist(), abs=1e-5)


def test_the_default_model_puts_the_answer_first(examples):
    """The smallest example as it stands: all documents, SQLite, the real weights."""
    example = examples("sqlite_fts5")
    everything = importlib.reload(importlib.import_module("standard_library"))
    candidates = example.search(example.build(everything.documents()), QUESTION)
    places = [document["id"] for document in candidates]
    hits = Reranker().rank(QUESTION, candidates)
    assert places.index("shutil.rmtree") >= 3 and hits[0].document["id"] == "shutil.rmtree"


class SearchHandler(BaseHTTPRequestHandler):
    """Answers every request with a response of `_search`, in the form of the engines' documentation."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps(respond([{"text": text, "page": i} for i, text in enumerate(TEXTS)])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Elastic-Product", "Elasticsearch")  # without it the client refuses the answer
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address():
    server = HTTPServer(("127.0.0.1", 0), SearchHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("package, client", [("elasticsearch", "Elasticsearch"), ("opensearchpy", "OpenSearch")])
def test_a_clients_response_is_reranked(package, client, address, reranker):
    """The real clients parse the response; Elasticsearch's is an object of its own class, not a dict."""
    with getattr(importlib.import_module(package), client)(address) as connected:
        response = connected.search(index="docs", **({"query": {"match_all": {}}} if package == "elasticsearch" else {"body": {}}))
    got = rerank_response(response, QUERY, reranker)
    assert [hit["_source"]["page"] for hit in got["hits"]["hits"]] == [hit.index for hit in reranker.rank(QUERY, TEXTS)]
    assert isinstance(response, dict) == (package == "opensearchpy")
