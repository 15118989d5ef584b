"""Preset mxbai against the ids of the package mxbai-rerank 0.1.6.

The reference was made once, by scripts/make_mxbai_fixture.py: that package does not run on transformers 5.
"""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prorank.prompts.prompt import Prompt

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    with gzip.open(FIXTURES / "mxbai_ids.json.gz", "rt", encoding="utf-8") as handle:
        return json.load(handle)["rows"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FIXTURES / "mxbai_tokenizer")


def _describe(number: int, row: dict, got: list[int]) -> str:
    shared = next((i for i, (a, b) in enumerate(zip(got, row["ids"])) if a != b), min(len(got), len(row["ids"])))
    return f"row {number} (max_length {row['max_length']}): {len(got)} ids for {len(row['ids'])}, alike up to {shared}"


def test_all_ids_equal_the_package(rows, tokenizer):
    bound = {n: Prompt.preset("mxbai", max_length=n).bind(tokenizer) for n in {row["max_length"] for row in rows}}
    wrong = []
    for number, row in enumerate(rows):
        got = bound[row["max_length"]].encode(row["query"], row["document"], instruction=row["instruction"]).ids
        if got != row["ids"]:
            wrong.append(_describe(number, row, got))
    assert not wrong, f"{len(wrong)} of {len(rows)} differ: {wrong[:5]}"


def test_fixture_covers_the_hard_cases(rows):
    seen = Counter()
    for row in rows:
        long = len(row["query"]) > 3 * row["max_length"]
        seen["long query"] += long
        seen["long document"] += len(row["document"]) > 8 * row["max_length"]
        seen["no instruction"] += row["instruction"] is None
        seen["empty instruction"] += row["instruction"] == ""
        seen["instruction"] += bool(row["instruction"])
        seen["empty query"] += row["query"] == ""
        seen["empty document"] += row["document"] == ""
        seen["special token in a text"] += "<|im_end|>" in row["query"] + row["document"]
        seen["not ascii"] += not row["document"].isascii()
        seen["newline at the end"] += row["query"].endswith("\n")
    assert len(rows) == 500
    assert {row["max_length"] for row in rows} == {64, 256, 1024, 8192}
    assert min(seen.values()) >= 3, seen


def test_counts_what_the_package_cuts_in_silence(rows, tokenizer):
    bound = Prompt.preset("mxbai", max_length=64).bind(tokenizer)
    encoded = bound.encode("query " * 200, "document " * 200)
    assert encoded.query_cut > 0 and encoded.document_cut > 0
    assert bound.encode("a", "b").document_cut == 0
