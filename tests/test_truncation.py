"""Truncation and chunks of documents, for every preset that shows one document.

Without limits, `encode_chunks` returns the ids of `encode`.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prorank.errors import ConfigError, PromptError
from prorank.prompts.prompt import Prompt
from prorank.prompts.truncation import Truncation
from tests.tiny import WORDS, byte_tokenizer

QUERY = "where is the garden?"
LONG = " ".join(WORDS * 100)
LENGTHS = {"prorank": 256, "echo": 256, "mxbai": 512, "rerank-r0": 900}
BOUND = {name: Prompt.preset(name, max_length=most).bind(byte_tokenizer("qwen2")) for name, most in LENGTHS.items()}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    count=st.integers(0, 300), room=st.integers(1, 60), chunks=st.integers(1, 9), overlap=st.floats(0, 0.9),
    most=st.none() | st.integers(1, 200), side=st.sampled_from(["right", "left"]),
)  # fmt: skip
def test_chunks_fit_overlap_and_omit_only_what_they_report(count, room, chunks, overlap, most, side):
    ids = list(range(count))
    truncation = Truncation(max_document_tokens=most, max_chunks=chunks, overlap=overlap, side=side)
    shown, cut = truncation.split(ids, room)
    seen = sorted(set().union(*shown))
    assert 1 <= len(shown) <= chunks and all(len(some) <= room for some in shown)
    assert cut == count - len(seen)
    assert seen == (ids[: len(seen)] if side == "right" else ids[count - len(seen) :])
    assert all(set(some) & set(after) or overlap * room < 1 for some, after in zip(shown, shown[1:]))
    assert all(some and some == list(range(some[0], some[-1] + 1)) for some in shown if count)
    if chunks * (room - int(room * overlap)) >= count and most is None:
        assert cut == 0 or chunks == 1


@pytest.mark.parametrize("bound", BOUND.values(), ids=BOUND)
def test_plain_parts_are_the_prompts_own_encoding(bound):
    for document in ("", "the garden", LONG):
        assert bound.encode_chunks(QUERY, [document]) == [[bound.encode(QUERY, document)]]


@pytest.mark.parametrize("bound", BOUND.values(), ids=BOUND)
def test_every_part_stands_in_the_whole_frame(bound):
    """Each part is the prompt of a document that says nothing else, so the template's words stand around it."""
    whole = bound.encode(QUERY, "")
    before, behind = whole.ids[: whole.document_start], whole.ids[whole.document_end :]
    lead = len(whole.ids) - len(before) - len(behind)  # words of the template in the document's own segment
    some = bound.encode_chunks(QUERY, [LONG], truncation=Truncation(max_chunks=2))[0]
    assert len(some) == 2 and len(some[0].ids) == bound.longest
    for one in some:
        assert one.ids[: len(before)] == before and one.ids[one.document_end :] == behind
        assert one.ids[len(before) : len(before) + max(0, lead - 1)] == whole.ids[len(before) : len(before) + max(0, lead - 1)]
    assert some[0].document_cut == some[1].document_cut > 0


def test_bounds_of_document_query_prompt_and_side():
    bound = BOUND["prorank"]
    document = bound.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    capped = bound.encode_chunks(QUERY, [LONG], truncation=Truncation(max_document_tokens=5))[0][0]
    assert capped.ids[capped.document_start : capped.document_end] == document[:5]
    assert capped.document_cut == len(document) - 5
    left = bound.encode_chunks(QUERY, [LONG], truncation=Truncation(max_document_tokens=5, side="left"))[0][0]
    assert left.ids[left.document_start : left.document_end] == document[-5:]
    asked = bound.encode_chunks(QUERY, ["the garden"], truncation=Truncation(max_query_tokens=2))[0][0]
    assert asked.query_cut == bound.encode(QUERY, "the garden").query_cut + len(bound.tokenizer(QUERY)["input_ids"]) - 2
    assert len(bound.encode_chunks(QUERY, [LONG], truncation=Truncation(max_prompt_tokens=150))[0][0].ids) == 150
    with pytest.raises(
        PromptError, match="limit of 20 tokens leaves no room for a document: query and template take [0-9]+; raise it"
    ):
        bound.encode_chunks(QUERY, [LONG], truncation=Truncation(max_prompt_tokens=20))


def test_invalid_truncation():
    with pytest.raises(ConfigError, match="side 'up' is not known; valid: right, left"):
        Truncation(side="up")
    with pytest.raises(ConfigError, match="chunks must be at least 1"):
        Truncation(max_chunks=0)
    with pytest.raises(ConfigError, match="overlap in 0..1"):
        Truncation(overlap=1.0)
