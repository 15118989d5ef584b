"""Arguments of the Python API: documents, pairs, texts and options of every kind are accepted or refused before any work.

`EVERY` contains all public methods; each must accept and refuse the same values.
"""

import asyncio
import copy
import json
import math
from collections import UserDict, deque
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.errors import DataError
from prorank.integrations.sentence_transformers import CrossEncoder
from prorank.prompts.prompt import Prompt
from prorank.rank import documents, validation
from prorank.rank.documents import document_text
from prorank.rank.rerank_files import show
from prorank.rank.validation import RankOptions, items
from prorank.remote.client import Remote
from prorank.utils.texts import plain_text
from tests.serving import running
from tests.test_reranker import DOCUMENTS, QUERY, small
from tests.tiny import byte_tokenizer

RERANKER = small()
HALF = "half a pair \ud83e of text"


@pytest.fixture(scope="module")
def remote():
    with running(small()) as server, Remote(server.url) as one:
        yield one


METHODS = {
    "rank": lambda d, q=QUERY, **o: [h.score for h in sorted(RERANKER.rank(q, d, **o), key=lambda h: h.index)],
    "rank_many": lambda d, q=QUERY, **o: [h.score for h in sorted(RERANKER.rank_many([q], [d], **o)[0], key=lambda h: h.index)],
    "arank": lambda d, q=QUERY, **o: [h.score for h in sorted(asyncio.run(RERANKER.arank(q, d, **o)), key=lambda h: h.index)],
    "score_lists": lambda d, q=QUERY, **o: RERANKER.score_lists([q], [d], **o)[0],
    "score": lambda d, q=QUERY, **o: RERANKER.score(((q, one) for one in items(d, "documents")), **o),
}
OTHERS = {
    "likelihood": lambda d, q=QUERY: RERANKER.likelihood([q], [d])[0],
    "diagnose": lambda d, q=QUERY: RERANKER.diagnose([q], [d]).scores,
    "CrossEncoder.rank": lambda d, q=QUERY: [row["score"] for row in CrossEncoder(RERANKER).rank(q, d)],
}
EVERY = METHODS | OTHERS


@pytest.fixture(params=list(EVERY) + ["Remote.rank", "Remote.score_lists"])
def call(request):
    """A method that takes documents (and a query)."""
    if request.param in EVERY:
        return EVERY[request.param]
    remote = request.getfixturevalue("remote")
    return {
        "Remote.rank": lambda d, q=QUERY: [h.score for h in sorted(remote.rank(q, d), key=lambda h: h.index)],
        "Remote.score_lists": lambda d, q=QUERY: remote.score_lists([q], [d])[0],
    }[request.param]


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be computed or sent."""
    work = ["rank.model_runtime.last_hidden", "rank.base_reranker.query_likelihood", "remote.client.Remote._post"]
    for place in (f"prorank.{name}" for name in work):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("work was done"))


SHUFFLED = pd.Series(DOCUMENTS, index=[7, 3, 3, 0, 1, 99])
ITERABLES = {
    "tuple": tuple(DOCUMENTS),
    "generator": lambda: (text for text in DOCUMENTS),
    "iterator": lambda: iter(DOCUMENTS),
    "map": lambda: map(str, DOCUMENTS),
    "deque": deque(DOCUMENTS),
    "values of a dict": dict(enumerate(DOCUMENTS)).values(),
    "keys of a dict": dict.fromkeys(DOCUMENTS).keys(),
    "array of texts": np.array(DOCUMENTS),
    "array of objects": np.array(DOCUMENTS, dtype=object),
    "numpy texts": [np.str_(text) for text in DOCUMENTS],
    "Series": SHUFFLED,
    "Index": pd.Index(DOCUMENTS),
    "records": pd.DataFrame({"text": DOCUMENTS, "title": [None, math.nan, pd.NA, "", None, None]}).to_dict("records"),
    "mappings": [MappingProxyType({"text": text}) for text in DOCUMENTS],
}


@pytest.mark.parametrize("kind", list(ITERABLES))
def test_iterables_of_documents_are_read_in_their_order(kind):
    some = ITERABLES[kind]
    want = METHODS["score_lists"]([text.strip() for text in DOCUMENTS] if kind in ("records", "mappings") else DOCUMENTS)
    for name, method in METHODS.items():
        np.testing.assert_allclose(method(some() if callable(some) else some), want, atol=1e-5, err_msg=name)
    assert np.ptp(want) > 0.01


def test_every_method_takes_a_generator(call):
    np.testing.assert_allclose(np.sort(call(text for text in DOCUMENTS)), np.sort(call(DOCUMENTS)), atol=1e-4)


def test_positions_count_not_labels():
    """Pairs as a Series whose index is not 0..n-1; hits contain positions."""
    pairs = [(QUERY, text) for text in DOCUMENTS]
    want = RERANKER.score(pairs)
    shuffled = pd.Series(pairs, index=[5, 4, 3, 2, 1, 0])
    arrays = np.array(pairs), np.array(pairs, dtype=object)
    for some in (shuffled, zip([QUERY] * 6, DOCUMENTS), *arrays, map(list, pairs), tuple(pairs)):
        np.testing.assert_allclose(RERANKER.score(some), want, atol=1e-5)
    np.testing.assert_allclose(CrossEncoder(RERANKER).predict(shuffled), want, atol=1e-5)
    assert all(hit.document == DOCUMENTS[hit.index] for hit in RERANKER.rank(QUERY, SHUFFLED))
    queries = pd.Series(["garden", "river"], index=[1, 0])
    many = RERANKER.rank_many(queries, pd.Series([DOCUMENTS[:2], DOCUMENTS], index=[9, 2]))
    assert [len(hits) for hits in many] == [2, 6] and many[1] == RERANKER.rank("river", DOCUMENTS)


class Frame:
    """A table with the interface of polars."""

    columns = ["text"]

    def __iter__(self):
        return iter(self.columns)

    def to_dicts(self):
        return []

    def to_dict(self):
        return {}


@pytest.mark.parametrize(
    "documents, message",
    [
        (pd.DataFrame({"text": DOCUMENTS}), 'not the table DataFrame; give its rows: .to_dict("records")'),
        (Frame(), "not the table Frame; give its rows: .to_dicts()"),
        (set(DOCUMENTS), "must be a list, not set, which has no order"),
        (frozenset(DOCUMENTS), "not frozenset, which has no order"),
        ("one text", "must be a list, not str 'one text'"),
        (b"bytes", "must be a list, not bytes"),
        ({"text": "one"}, "must be a list, not dict"),
        (UserDict(text="one"), "must be a list, not UserDict"),
        (3, "must be a list, not int"),
        (None, "must be a list, not NoneType"),
        (np.array("one"), "must be a list, not ndarray"),
    ],
)
def test_values_that_are_no_list_of_documents_are_refused(call, no_work, documents, message):
    with pytest.raises(DataError) as error:
        call(documents)
    assert message in str(error.value) and "\n" not in str(error.value)


class Page:
    """A document of LangChain."""

    page_content = "the garden"


@pytest.mark.parametrize(
    "document, message",
    [
        ({"text": math.nan}, "whose 'text' is float nan"),
        ({"text": pd.NA}, "whose 'text' is NAType <NA>"),
        ({"text": None, "title": "x"}, "whose 'text' is NoneType None"),
        ({"title": "x"}, "which has no text"),
        ({"text": "x", "title": 3}, "its title must be a text, not int 3"),
        (math.nan, "must be a string or a dict with a string 'text', not float nan"),
        (pd.NA, "must be a string or a dict"),
        (None, "must be a string or a dict with a string 'text', not NoneType None"),
        (["a", "b"], "must be a string or a dict with a string 'text', not list"),
        (np.array(["a", "b"]), "must be a string or a dict with a string 'text', not ndarray"),
        (pd.Series({"text": "x"}), "must be a string or a dict"),
        (Page(), "; give its text, page_content, or use the class of prorank.integrations"),
        (SimpleNamespace(content="x"), "; give its text, content,"),
        (HALF, "is not UTF-8 text: half of a surrogate pair (U+D83E at character 12)"),
        ({"text": HALF}, "its text is not UTF-8 text: half"),
        ({"text": "x", "title": HALF}, "its title is not UTF-8 text: half"),
        (b"bytes", "is bytes, not text; decode it first"),
        (bytearray(b"bytes"), "is bytearray, not text"),
        (memoryview(b"bytes"), "is memoryview, not text"),
        ({"text": b"bytes"}, "its text is bytes, not text"),
        ({"text": "x", "title": b"bytes"}, "its title is bytes, not text"),
    ],
)
def test_a_document_that_cannot_be_read_is_named(call, no_work, document, message):
    """The error names its position, in every method, before any work."""
    with pytest.raises(DataError) as error:
        call(["fine", document])
    said = str(error.value)
    assert message in said and "\n" not in said and ("document 1 of query 0" in said or "pair 1" in said), said
    assert said.encode()  # it can be printed


@pytest.mark.parametrize("title", [None, "", math.nan, np.float32("nan"), pd.NA, pd.NaT])
def test_a_missing_title_is_no_title(title):
    assert document_text({"text": "Vaccines", "title": title}) == "Vaccines"


@pytest.mark.parametrize(
    "query, message",
    [
        (HALF, "is not UTF-8 text"),
        (b"bytes", "is bytes, not text"),
        ("  ", "expected a text that is not empty"),
        (None, "is None; expected a text"),
        (3, "must be a text, not int 3"),
        (math.nan, "must be a text, not float nan"),
        (["garden"], "must be a text, not list"),
    ],
)
def test_a_query_that_cannot_be_read_is_named(call, no_work, query, message):
    with pytest.raises(DataError) as error:
        call(DOCUMENTS, query)
    assert message in str(error.value) and ("query 0" in str(error.value) or "pair 0" in str(error.value))


NUMBERS = [2.5, 2.0, True, np.True_, "3", math.nan, [3], Decimal(3), 0, -1, np.int64(0)]
WRONG = [(name, value) for name in ("top_k", "top_n", "batch_size") for value in NUMBERS]
WRONG += [("min_score", value) for value in (math.nan, np.float32("nan"), "0.5", True, [0.5], Decimal("nan"), 10**400)]
WRONG += [("instruction", value) for value in (3, b"bytes", ["find"], HALF, math.nan)]


@pytest.mark.parametrize("name, value", WRONG, ids=lambda value: repr(value)[:20])
def test_options_are_checked_before_the_documents_are_touched(remote, no_work, name, value):
    """The error is raised before a generator of documents is read."""
    untouched = (pytest.fail("documents were read") for _ in range(1))
    calls = {
        "rank": lambda: RERANKER.rank(QUERY, untouched, **{name: value}),
        "rank_many": lambda: RERANKER.rank_many([QUERY], untouched, **{name: value}),
        "arank": lambda: asyncio.run(RERANKER.arank(QUERY, untouched, **{name: value})),
    }
    if name in ("batch_size", "instruction"):
        calls["score_lists"] = lambda: RERANKER.score_lists([QUERY], untouched, **{name: value})
    if name == "instruction":
        calls["score"] = lambda: RERANKER.score(untouched, value)
        calls["Remote.score_lists"] = lambda: remote.score_lists([QUERY], untouched, value)
    if name != "batch_size":
        calls["Remote.rank"] = lambda: remote.rank(QUERY, untouched, **{name: value})
    if name == "top_k":
        calls["CrossEncoder.rank"] = lambda: CrossEncoder(RERANKER).rank(QUERY, DOCUMENTS, top_k=value)
    for run in calls.values():
        with pytest.raises(DataError) as error:
            run()
        assert name in str(error.value) and "\n" not in str(error.value)


def test_options_of_numpy_are_numbers():
    hits = RERANKER.rank(QUERY, DOCUMENTS)
    few = RERANKER.rank(QUERY, DOCUMENTS, top_k=np.int64(2), batch_size=np.int32(1))
    assert [hit.index for hit in few] == [hit.index for hit in hits[:2]]
    assert RERANKER.rank(QUERY, DOCUMENTS, min_score=np.float64(hits[2].score)) == hits[:3]
    assert RERANKER.rank(QUERY, DOCUMENTS, min_score=-math.inf) == hits and RERANKER.rank(QUERY, DOCUMENTS, min_score=10**6) == []
    made = RankOptions(np.int8(3), Fraction(1, 2), np.uint16(4), np.str_("find"), np.int64(3))
    assert [type(value) for value in vars(made).values()] == [int, float, int, str, int]


def test_top_n_is_another_name_of_top_k(remote, no_work):
    """Users of the APIs of Cohere and Jina try it first; two numbers that differ are refused before any work."""
    for top_k, top_n, wanted in [(2, None, 2), (None, 2, 2), (2, np.int64(2), 2), (None, None, None)]:
        assert RankOptions(top_k, top_n=top_n).top_k == wanted
    untouched = (pytest.fail("documents were read") for _ in range(1))
    calls = [
        lambda: RERANKER.rank(QUERY, untouched, 3, top_n=2),
        lambda: RERANKER.rank_many([QUERY], untouched, 3, top_n=2),
        lambda: asyncio.run(RERANKER.arank(QUERY, untouched, 3, top_n=2)),
        lambda: remote.rank(QUERY, untouched, 3, top_n=2),
    ]
    for call in calls:
        with pytest.raises(DataError, match="^top_n is an alias of top_k, but top_k is 3 and top_n is 2; give one of them$"):
            call()


def test_top_n_bounds_the_hits(remote):
    hits = RERANKER.rank(QUERY, DOCUMENTS, top_n=2)
    assert len(hits) == 2 and hits == RERANKER.rank(QUERY, DOCUMENTS, top_k=2, top_n=2) == RERANKER.rank(QUERY, DOCUMENTS, 2)
    assert RERANKER.rank_many([QUERY], [DOCUMENTS], top_n=2) == [hits]
    assert asyncio.run(RERANKER.arank(QUERY, DOCUMENTS, top_n=2)) == hits
    assert [hit.index for hit in remote.rank(QUERY, DOCUMENTS, top_n=2)] == [hit.index for hit in hits]


@pytest.mark.parametrize("name", METHODS)
def test_a_document_becomes_a_text_once(name, monkeypatch):
    """Later steps use texts only."""
    calls = []
    monkeypatch.setattr(validation, "document_text", lambda *args: calls.append(args) or document_text(*args))
    monkeypatch.setattr(documents, "document_text", lambda *args: pytest.fail("a text was made again"))
    METHODS[name](DOCUMENTS)
    assert len(calls) == len(DOCUMENTS)


def test_a_prompt_names_texts_that_its_tokenizer_cannot_encode():
    """For direct users of encoders."""
    text = HALF
    bound = Prompt.preset("prorank", max_length=192).bind(byte_tokenizer())
    several = Prompt.preset("setwise").bind_list(byte_tokenizer("qwen2"))
    for encode in (
        lambda: bound.encode(text, "document"),
        lambda: bound.encode_many("query", ["fine", text]),
        lambda: bound.encode("query", "document", text),
        lambda: several.encode(text, ["document"]),
        lambda: several.encode("query", ["fine", text]),
    ):
        with pytest.raises(DataError, match="text"):
            encode()


@given(st.text(st.characters(min_codepoint=0xD000, max_codepoint=0xE100), max_size=4))
def test_text_is_refused_if_and_only_if_it_is_not_utf8(text):
    """A lone surrogate at any position is refused, and no other text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(DataError, match="surrogate"):
            plain_text(text, "it")
    else:
        assert plain_text(text, "it") == text


def test_fields_that_are_not_scored_may_be_anything():
    """Ids and metadata are returned unchanged."""
    documents = [{"text": "the garden", "id": HALF, "more": {b"key": HALF}}, {"text": "river", "id": 7, "title": None}]
    hits = RERANKER.rank(QUERY, copy.deepcopy(documents))
    assert sorted((hit.document for hit in hits), key=str) == sorted(documents, key=str)


def test_a_half_pair_in_an_id_breaks_no_output(tmp_path, capsys, monkeypatch, tiny_llama_dir):
    """A file that spells one is refused; in a caller's id it is shown, and neither ends in a traceback after the work."""
    from tests.test_reranker import run

    row = {"id": HALF, "text": "the garden", "more": HALF}
    (tmp_path / "docs.jsonl").write_text(json.dumps(row) + "\n")
    code, _, err = run(monkeypatch, capsys, "rerank", tmp_path / "docs.jsonl", "-q", QUERY, "--model", tiny_llama_dir)
    assert code == 2 and "docs.jsonl:1: not UTF-8 text" in err
    hits = RERANKER.rank(QUERY, [row])
    for as_json in (True, False):
        show(hits, as_json)
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[0])["document"] == row and "the garden" in out


@pytest.mark.parametrize("where", ["query", "instruction", "stdin"])
def test_the_command_names_what_is_no_utf8(where, tmp_path, capsys, monkeypatch, tiny_llama_dir):
    """An argument or a line that the locale could not decode."""
    from tests.test_reranker import run

    broken = b"caf\xe9".decode("utf-8", "surrogateescape")
    (tmp_path / "docs.txt").write_text("the garden\n")
    words = {
        "query": [tmp_path / "docs.txt", "--query", broken],
        "instruction": [tmp_path / "docs.txt", "--query", "garden", "--instruction", broken],
        "stdin": ["-", "--query", "garden"],
    }[where]
    code, out, err = run(monkeypatch, capsys, "rerank", *words, "--model", tiny_llama_dir, stdin=f"fine\n{broken}\n")
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1 and "UTF-8" in err
    assert {"query": "--query", "instruction": "the instruction", "stdin": ""}[where] in err


def test_other_servers_are_sent_no_half_pairs(remote, no_work):
    """With --server the request would fail to be written."""
    with pytest.raises(DataError, match="document 0 of query 0 is not UTF-8"):
        remote.rank(QUERY, [HALF])
