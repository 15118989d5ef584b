"""Half a surrogate pair and bytes that are no UTF-8 are refused with file and line, in every text of every data file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prorank.data.beir import read_texts
from prorank.data.formats import read_groups
from prorank.data.pairs import pairs_of_clicks
from prorank.data.reasoning_examples import read_reasoning_examples
from prorank.data.rerank_r0_logs import convert
from prorank.errors import DataError
from prorank.rank.document_files import read_documents

LIST = {"query": "q", "pos": ["a"], "neg": ["b"]}
PASSAGES = {"query": "q", "positive_passages": [{"text": "a"}], "negative_passages": []}
LOG = {"query": "q", "response": "a", "response_thinking": "t", "rejected_response": []}
BAD = "é"  # stands for what cannot be read
# Reader and a row with BAD in one of its texts.
ROWS = {
    "pair": (read_groups, {"query": BAD, "document": "a", "label": 1}),
    "pair's document": (read_groups, {"query": "q", "document": BAD, "label": 1}),
    "pair's id": (read_groups, {"query": "q", "document": "a", "label": 1, "doc_id": BAD}),
    "list's query": (read_groups, LIST | {"query": BAD}),
    "pos": (read_groups, LIST | {"pos": ["a", BAD]}),
    "neg": (read_groups, LIST | {"neg": [BAD]}),
    "ids": (read_groups, LIST | {"pos_ids": [BAD], "neg_ids": ["b"]}),
    "passage": (read_groups, PASSAGES | {"negative_passages": [{"text": BAD}]}),
    "passage's title": (read_groups, PASSAGES | {"negative_passages": [{"text": "a", "title": BAD}]}),
    "positive": (read_groups, {"anchor": "q", "positive": BAD}),
    "negative": (read_groups, {"anchor": "q", "positive": "a", "negative_2": BAD}),
    "thought": (read_reasoning_examples, {"query": "q", "document": "a", "think": BAD, "answer": "yes"}),
    "thought's list": (read_reasoning_examples, {"query": "q", "documents": ["a", BAD], "think": "t", "answer": "[1]"}),
    "log": (lambda path: convert(path, path.with_name("out")), LOG | {"response": BAD}),
    "click": (lambda path: list(pairs_of_clicks(path, 1)), {"query": "q", "shown": [{"text": BAD, "clicked": True}]}),
    "document": (lambda path: read_documents(str(path)), {"text": BAD}),
    "document's title": (lambda path: read_documents(str(path)), {"text": "a", "title": BAD}),
    "corpus": (lambda path: read_texts(path.parent), {"_id": "d1", "text": BAD}),
    "corpus title": (lambda path: read_texts(path.parent), {"_id": "d1", "title": BAD, "text": ""}),
}


@pytest.mark.parametrize("escaped", [True, False], ids=["surrogate", "latin-1"])
@pytest.mark.parametrize("case", ROWS)
def test_texts_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path, case: str, escaped: bool):
    read, row = ROWS[case]
    path = tmp_path / "corpus.jsonl"
    line = json.dumps(row, ensure_ascii=False)
    content = line.replace(BAD, "\\ud83d").encode() if escaped else line.encode("latin-1")
    path.write_bytes(b"\n" + content)
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: .*not UTF-8 text") as error:
        read(path)
    assert "\n" not in str(error.value) and str(error.value).encode()
    path.write_bytes(b"\n" + line.replace(BAD, "\\ud83d\\ude00").encode())  # a whole pair is a character
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "q"}\n')
    read(path)
