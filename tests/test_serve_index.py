"""`prorank serve --index`: documents named by id or found by their text, with the scores of a server without an index."""

import concurrent.futures
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from prorank import Reranker
from prorank.checkpoints.calibration import Calibration
from prorank.cli.command_line import app
from prorank.errors import ConfigError, DataError
from prorank.prompts.prompt import Prompt
from prorank.serve import stored_documents
from tests.serving import running
from tests.tiny import WORDS, save_tiny

PROMPT = Prompt.preset("document-first", max_length=300, chunk_length=48)
HOW = {"device": "cpu", "dtype": "fp32", "prompt": PROMPT}
LONG = " ".join(WORDS * 15)
INDEXED = [
    {"id": "garden", "text": f"the {WORDS[0]} near the {WORDS[1]}"},
    {"id": "titled", "title": "River", "text": "runs to the sea"},
    {"id": 7, "text": LONG},
    {"id": "empty", "text": ""},
    {"id": "twin", "text": f"the {WORDS[0]} near the {WORDS[1]}"},
    *({"id": f"word {i}", "text": f"we saw the {word}"} for i, word in enumerate(WORDS)),
]
TEXTS = {str(document["id"]): f"{document.get('title', '')} {document['text']}".strip() for document in INDEXED}
OTHER = ["a text that is in no index", LONG[::-1]]
BOTH = [
    {"id": "titled"},
    OTHER[0],
    {"id": 7},
    TEXTS["garden"],
    {"id": "twin"},
    OTHER[1],
    {"text": LONG},
    {"id": "word 3"},
    {"id": "empty"},
]
READ = [TEXTS["titled"], OTHER[0], LONG, TEXTS["garden"], TEXTS["twin"], OTHER[1], LONG, TEXTS["word 3"], ""]
QUERY = f"where is the {WORDS[0]}?"


@pytest.fixture(scope="module")
def reranker(tiny_llama_dir):
    return Reranker(tiny_llama_dir, **HOW)


@pytest.fixture(scope="module")
def folder(reranker, tmp_path_factory):
    made = tmp_path_factory.mktemp("serve") / "index"
    reranker.index(INDEXED, folder=made)
    return made


@pytest.fixture(scope="module")
def indexed(reranker, folder):
    """A server with an index."""
    with running(reranker, index_folder=folder) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tiny_llama_dir):
    """The same server without an index."""
    with running(Reranker(tiny_llama_dir, **HOW)) as server:
        yield server


def same(found: dict, wanted: dict, score: str = "relevance_score", hits: str = "results") -> None:
    """Check that two answers have the same hits in the same order, and scores within 1e-4."""
    one, other = ([{k: v for k, v in hit.items() if k != "document"} for hit in answer[hits]] for answer in (found, wanted))
    assert [hit["index"] for hit in one] == [hit["index"] for hit in other]
    assert [hit[score] for hit in one] == pytest.approx([hit[score] for hit in other], abs=1e-4)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/score"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"raw_scores": True}, {"instruction": "find castles", "raw_scores": True}, {"long_documents": "truncate"},
        {"max_tokens_per_doc": 20, "raw_scores": True}, {"top_n": 3}, {"query": LONG[:700], "raw_scores": True},
    ],
)  # fmt: skip
def test_answers_are_those_without_an_index(indexed, plain, path, options):
    body = {"query": QUERY, "raw_scores": False} | options
    body |= {"queries": body["query"]}
    found, wanted = indexed.post(path, body | {"documents": BOTH}), plain.post(path, body | {"documents": READ})
    assert found.status_code == wanted.status_code == 200, found.text
    keys = ("score", "data") if path == "/score" else ()
    same(found.json(), wanted.json(), *keys)
    for name in ("tokens", "characters"):
        assert found.headers[f"x-compute-{name}"] == wanted.headers[f"x-compute-{name}"]
    for name in ("documents", "indices"):
        assert found.headers.get(f"x-prorank-truncated-{name}") == wanted.headers.get(f"x-prorank-truncated-{name}")
    assert "x-prorank-stored-documents" not in wanted.headers


def test_stored_keys_and_values_are_used_where_the_prompt_has_the_same_tokens(indexed, monkeypatch):
    scored = []
    score = stored_documents.score_prompts
    monkeypatch.setattr(
        stored_documents, "score_prompts", lambda r, head, prompts: scored.append(prompts) or score(r, head, prompts)
    )
    before = indexed.service.metrics.registry.get_sample_value("prorank_stored_documents_total")

    def stored(**more) -> str:
        return indexed.post("/v1/rerank", {"query": QUERY, "documents": BOTH} | more).headers["x-prorank-stored-documents"]

    assert stored() == "7"  # all but OTHER
    chunks = {(prompt.segment.path, prompt.chunk) for prompts in scored for prompt in prompts}
    assert len(chunks) > 6  # one of each short text, and several of the long one
    assert stored(long_documents="truncate") == "7"  # a long text's beginning is its first chunk
    assert stored(max_tokens_per_doc=40) == "5" and stored(instruction="find castles") == "0"
    after = indexed.service.metrics.registry.get_sample_value("prorank_stored_documents_total")
    assert after - before == 19


def test_texts_of_tei_are_found(indexed, plain):
    body = {"query": QUERY, "texts": READ, "raw_scores": True}
    found, wanted = indexed.post("/rerank", body), plain.post("/rerank", body)
    assert found.headers["x-prorank-stored-documents"] == "7"
    same({"results": found.json()}, {"results": wanted.json()}, "score")


def test_many_clients_get_the_scores_of_the_library(indexed, reranker):
    """Requests share batches, in which some documents are stored and others are not."""
    bodies = [{"query": f"{word} near here", "documents": BOTH[i % 4 :], "raw_scores": True} for i, word in enumerate(WORDS)]
    expected = [reranker.rank(body["query"], READ[i % 4 :]) for i, body in enumerate(bodies)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: indexed.post("/v1/rerank", body).json(), bodies))
    for answer, hits in zip(answers, expected, strict=True):
        same(answer, {"results": [{"index": hit.index, "relevance_score": hit.score} for hit in hits]})


def test_probabilities_are_those_without_an_index(reranker, folder, tiny_llama_dir, tmp_path):
    copied = shutil.copytree(tiny_llama_dir, tmp_path / "calibrated")
    made_for = {"prompt_id": reranker.prompt_fingerprint, "weights": reranker.weight_hashes}
    Calibration("temperature", {"temperature": 4.0}, **made_for).save(copied)
    calibrated = Reranker(copied, **HOW)
    hits = calibrated.rank(QUERY, READ)
    with running(calibrated, index_folder=folder) as server:
        answer = server.post("/v1/rerank", {"query": QUERY, "documents": BOTH})
    assert answer.headers["x-prorank-scores"] == "probability" and answer.headers["x-prorank-stored-documents"] == "7"
    same(answer.json(), {"results": [{"index": hit.index, "relevance_score": hit.probability} for hit in hits]})


def test_hits_show_the_text_of_a_document_that_was_named(indexed):
    body = {"query": QUERY, "documents": [{"id": "titled", "page": 3}, {"id": 7}], "return_documents": True}
    for path in ("/v1/rerank", "/v2/rerank"):
        documents = {hit["index"]: hit["document"] for hit in indexed.post(path, body).json()["results"]}
        assert documents == {0: {"id": "titled", "page": 3, "text": TEXTS["titled"]}, 1: {"id": 7, "text": LONG}}
    single = indexed.post("/rerank", {"query": QUERY, "documents": {"id": "titled"}}).json()["results"]
    assert single[0]["document"]["text"] == TEXTS["titled"]


@pytest.mark.parametrize("path, status", [("/v1/rerank", 422), ("/v2/rerank", 400), ("/rerank", 400), ("/score", 400)])
def test_unknown_ids_are_refused_before_anything_is_scored(indexed, path, status):
    def scored() -> float:
        return indexed.service.metrics.registry.get_sample_value("prorank_batch_prompts_sum")

    before = scored()

    def refusal(document) -> str:
        answer = indexed.post(path, {"query": QUERY, "queries": QUERY, "documents": ["a", document]})
        assert answer.status_code == status
        return answer.text

    assert f"id 'land' is not in the index of {len(INDEXED)} documents" in refusal({"id": "land"})
    assert "document 1" in refusal({"id": "land"}) and "id 3 is not" in refusal({"id": 3.0})
    for wrong in (True, 2.5, ["garden"], {}):
        assert "its id must be a text or a whole number" in refusal({"id": wrong})
    assert "has no text" in refusal({"title": "River"}) and "has no text" in refusal({"id": "garden", "title": "River"})
    assert scored() == before


def test_a_request_that_has_a_text_or_names_fields_is_read_as_it_is(indexed, plain):
    for documents, more in (
        ([{"id": "garden", "text": "another text"}, {"id": "land", "text": "b"}], {}),
        ([{"id": "garden", "content": "another text"}, {"id": "land", "content": "b"}], {}),
        ([{"id": "garden", "body": "c"}, {"id": "land", "body": "d"}], {"rank_fields": ["id", "body"]}),
    ):
        body = {"query": QUERY, "documents": documents, "raw_scores": True} | more
        found, wanted = indexed.post("/v1/rerank", body), plain.post("/v1/rerank", body)
        assert found.status_code == 200 and found.headers["x-prorank-stored-documents"] == "0"
        same(found.json(), wanted.json())


def test_a_server_without_an_index_refuses_ids(plain):
    answer = plain.post("/v1/rerank", {"query": QUERY, "documents": [{"id": "garden"}]})
    assert answer.status_code == 422 and "document 0 has no text" in answer.json()["detail"]


def test_an_index_of_another_model_ends_the_service(folder, tmp_path):
    other = Reranker(save_tiny(tmp_path / "other", "llama", seed=1), **HOW)
    with running(other, index_folder=folder) as server:
        assert isinstance(server.service.error, ConfigError)
        assert str(server.service.error).startswith(f"{folder}: the index was made with other weights than the model's")


def test_a_folder_without_an_index_is_refused_before_the_port_is_opened(tiny_llama_dir, tmp_path):
    result = CliRunner().invoke(app, ["serve", "--model", str(tiny_llama_dir), "--index", str(tmp_path), "--port", "0"])
    assert isinstance(result.exception, DataError)
    assert str(result.exception).startswith(f"{tmp_path}: contains no index (index.json)")


def test_the_command_serves_model_and_dtype_of_the_index(folder, tiny_llama_dir, monkeypatch):
    calls = []
    monkeypatch.setattr("prorank.serve.server.serve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("prorank.reranker.Reranker", lambda model, **options: (model, options))

    def served(*options):
        result = CliRunner().invoke(
            app, ["serve", "--index", str(folder), "--document-cache", "1000", *options], catch_exceptions=False
        )
        assert result.exit_code == 0
        load, name, *_, index, cache_bytes = calls[-1]
        (model, options), resolved = load(), str(tiny_llama_dir.resolve())
        assert (model, name, index, cache_bytes) == (resolved, resolved, folder, 1000)
        return options["dtype"]

    assert served() == "fp32" and served("--dtype", "bf16", "--model", str(tiny_llama_dir.resolve())) == "bf16"


@pytest.mark.timeout(300)
def test_an_index_of_another_model_ends_the_process_in_one_line(folder, tmp_path):
    other = save_tiny(tmp_path / "other", "llama", seed=1)
    PROMPT.save(other)
    options = ["--model", str(other), "--index", str(folder), "--device", "cpu", "--dtype", "fp32", "--port", "0"]
    done = subprocess.run([sys.executable, "-m", "prorank", "serve", *options], capture_output=True, text=True, timeout=240)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and line.startswith(f"error: {folder}: the index was made with other weights than the model's")
    assert "Traceback" not in done.stderr
