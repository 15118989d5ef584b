"""Prompts with the document first: their ids and cuts, ranking by them, and training that reads a document once for its queries.

Sharing changes what is computed and never what comes out: scores and losses are those of single prompts.
"""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group, same_documents, sample_blocks, sample_lists
from prorank.engine.packing import pack_document
from prorank.errors import PromptError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.train.curves import read_metrics
from prorank.train.settings.stage_settings import Score
from prorank.train.stages.score import MAX_QUERIES_PER_BLOCK, ScoreStage
from tests.test_train_run import run
from tests.tiny import WORDS, byte_tokenizer

TOKENIZER = byte_tokenizer("smollm")
ENCODER = Prompt.preset("document-first", max_length=200).bind(TOKENIZER)
DOCUMENTS = tuple(f"the old {word} is near the {word}" for word in WORDS[:6])
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join)


def block(*queries, documents=DOCUMENTS):
    """Groups of these queries over the same documents; those with the query's last word are relevant."""
    rows = [tuple(float(q.split()[-1] in d) for d in documents) for q in queries]
    return [Group(q, documents, row, teacher=tuple(2 * x - i / 10 for i, x in enumerate(row))) for q, row in zip(queries, rows)]


@given(query=words, document=words)
def test_the_query_stands_behind_the_document_and_both_keep_to_their_room(query, document):
    encoded = ENCODER.encode(query, document)
    text = ENCODER.tokenizer.decode(encoded.ids)
    assert len(encoded.ids) <= 200
    assert text.endswith(ENCODER.segments[-1]) and text.index("Document:") < text.index("Query:")
    asked, shown = (len(TOKENIZER(some, add_special_tokens=False)["input_ids"]) for some in (query, document))
    assert encoded.document_end - encoded.document_start == shown - encoded.document_cut
    fits = asked + shown <= ENCODER._max
    assert encoded.query_cut == (0 if fits else max(0, asked - ENCODER.query_limit()))
    if not encoded.document_cut and not encoded.query_cut:
        assert text == ENCODER.render(query, document)


def test_what_comes_before_the_query_is_the_same_for_all_queries():
    one, other = (ENCODER.encode(q, DOCUMENTS[0]) for q in ("garden", "what to drink in winter"))
    assert one.ids[: one.document_end] == other.ids[: other.document_end] and one.document_cut == other.document_cut == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"order": "both"}, "'order' is 'both', which is not known; valid: document-first, query-first"),
        ({"order": 1}, "'order' is 1"),
        ({"order": "document-first"}, "must hold {query} exactly once, after {document}"),
        ({"order": "document-first", "template": "{document} {query} {query}"}, "must hold {query} exactly once, after {document}"),
        ({"order": "document-first", "template": "{query} {document} {query}"}, "must hold {query} exactly once, after {document}"),
        ({"order": "document-first", "template": "{document} {query} {instruction}"}, "must place {instruction} before {document}"),
        ({"template": "{document} {query}"}, "or set order: document-first"),
        ({"preset": "setwise", "order": "document-first"}, "'order' must be 'query-first' for prompts of kind setwise"),
    ],
)
def test_malformed_settings_are_named(changes, message):
    with pytest.raises(PromptError) as error:
        Prompt.of(changes)
    assert message in str(error.value)


def test_fingerprints_of_presets_do_not_change():
    """Calibrations and kept scores name a prompt by these digits."""
    known = {"prorank": "3605b87bf52e", "echo": "3078b599f353", "mxbai": "6b4582e7b18e", "rank-r1": "3e24cb22c0bd"}
    assert {name: Prompt.preset(name).fingerprint() for name in known} == known
    assert Prompt.preset("document-first").fingerprint() not in known.values()


def test_it_is_saved_and_read(tmp_path):
    prompt = Prompt.preset("document-first", max_length=99)
    prompt.save(tmp_path)
    assert Prompt.load(tmp_path) == prompt


def test_ranking_gives_the_scores_of_single_prompts(tiny_llama_dir):
    prompt = Prompt.preset("document-first", max_length=200)
    reranker = Reranker(tiny_llama_dir, prompt=prompt, device="cpu", dtype="fp32")
    queries, documents = ["garden", "bread today " * 30], [list(DOCUMENTS), [f"{d} " * 9 for d in DOCUMENTS]]
    together = reranker.score_lists(queries, documents)
    for query, some, row in zip(queries, documents, together):
        alone = [reranker.score([(query, document)])[0] for document in some]
        torch.testing.assert_close(torch.tensor(row), torch.tensor(alone), atol=1e-4, rtol=0)


def test_groups_with_the_same_documents_come_together_whatever_their_order():
    some = block("a garden", "an engine", "a river")
    some[1] = some[1].take([3, 0, 5, 1, 4, 2])
    single = block("bread", documents=DOCUMENTS[:3])
    blocks = same_documents([some[0], *single, *some[1:]], max_queries=2)
    assert [[g.query for g in lists] for lists in blocks] == [["a garden", "an engine"], ["a river"], ["bread"]]
    for lists in blocks:
        assert len({g.documents for g in lists}) == 1
        for group in lists:
            word = group.query.split()[-1]
            assert group.labels == tuple(float(word in d) for d in group.documents)


@given(size=st.integers(2, 8), seed=st.integers(0, 9), queries=st.integers(1, 4))
def test_a_block_draws_the_same_documents_for_all_its_queries(size, seed, queries):
    lists = tuple(block(*WORDS[:queries]))
    (drawn,) = sample_blocks([lists], size, seed, 0)
    assert len(drawn) == queries and len({g.documents for g in drawn}) == 1
    assert len(drawn[0].documents) == min(size, len(DOCUMENTS)) == len(set(drawn[0].documents))
    if queries == 1:
        assert [drawn[0]] == sample_lists(lists, size, seed, 0)
    if size >= len(DOCUMENTS):
        assert all(max(g.labels) > 0 for g in drawn)


@pytest.mark.parametrize("long", [False, True])
def test_a_document_is_read_once_for_its_queries_and_the_loss_is_that_of_single_prompts(tiny_llama_dir, long):
    """Also where a long query cuts the document earlier than a short one does."""
    queries = ("a garden", "what to drink in winter near the old castle " * 3 + "engine" if long else "an engine", "a river")
    groups = block(*queries, documents=tuple(f"{d} " * (8 if long else 1) for d in DOCUMENTS))
    values = []
    for plain in (True, False):
        model = load_model(resolve(tiny_llama_dir), torch.float32, torch.device("cpu"))
        encoder = Prompt.preset("document-first", max_length=160).bind(load_tokenizer(resolve(tiny_llama_dir)))
        chosen = Score(data="", out="", loss={"kl": 1.0, "bce": 0.5}, teacher="data", list_size=6, baseline_step=plain)
        stage = ScoreStage(groups, encoder, chosen, None)
        assert len(stage) == 1
        example = stage.example(0)
        loss, figures = stage.loss(model, [example])
        loss.backward()
        values.append(
            (loss.item(), model.model.layers[0].mlp.up_proj.weight.grad.norm().item(), example.length, figures["documents"])
        )
    (plain, plain_norm, plain_tokens, count), (ours, norm, tokens, _) = values
    assert ours == pytest.approx(plain, abs=1e-4) and norm == pytest.approx(plain_norm, rel=1e-3)
    assert tokens < 0.7 * plain_tokens and count == 18


def test_scores_of_a_block_stand_query_by_query(tiny_llama_dir):
    groups = block("a garden", "an engine", "a river")
    encoder = Prompt.preset("document-first", max_length=160).bind(load_tokenizer(resolve(tiny_llama_dir)))
    stage = ScoreStage(groups, encoder, Score(data="", out="", list_size=6), None)
    example = stage.example(0)
    no, yes = encoder.answer_ids
    logits = torch.zeros(18, max(no, yes) + 1)
    logits[:, yes] = torch.arange(18.0)  # as packs have them: the first document's three queries, then the second's
    rows = stage.scores(logits, [example])
    assert [row.tolist() for row in rows] == [[3.0 * d + q for d in range(6)] for q in range(3)]
    assert example.keys == ["0", "0/1", "0/2"]


def test_equal_queries_share_no_more_than_the_document():
    same = [ENCODER.encode("garden", DOCUMENTS[0])] * 2
    shared = pack_document(same)
    assert shared.prefix_length == same[0].document_end and len(shared.answers) == 2


def test_no_more_queries_share_a_unit_than_fit():
    encoder = Prompt.preset("document-first", max_length=160).bind(TOKENIZER)
    stage = ScoreStage(
        block(*(f"query {i} garden" for i in range(2 * MAX_QUERIES_PER_BLOCK + 1))), encoder, Score(data="", out=""), None
    )
    assert len(stage) == 3 and len(stage.example(0).lists) in (1, MAX_QUERIES_PER_BLOCK)


def test_it_trains_and_the_checkpoint_ranks(tmp_path, tiny_llama_dir):
    data, lines = tmp_path / "lists.jsonl", []
    for i in range(12):
        texts = {word: f"the old {word} is near {i}" for word in ("coffee", "bread", "horse", "violin")}
        for asked, word in (("what to drink", "coffee"), ("what to eat", "bread"), ("what to ride", "horse")):
            others = [text for other, text in texts.items() if other != word]
            lines.append(json.dumps({"query": f"{asked} {i}", "pos": [texts[word]], "neg": others}) + "\n")
    data.write_text("".join(lines), encoding="utf-8")
    out = tmp_path / "run"
    model = run(out, data, tiny_llama_dir, stage="score", steps=60, learning_rate=3e-3, batch_size=2, dev_queries=0, list_size=4,
                prompt="document-first", max_length=120, save_every=0, num_evaluations=0)  # fmt: skip
    trained = [line for line in read_metrics(out) if "top1" in line]
    assert trained[-1]["top1"] > 0.9 and trained[0]["documents"] == 12
    assert Prompt.load(model).order == "document-first"
    hits = Reranker(model, device="cpu", dtype="fp32").rank("what to eat 3", ["the old horse is near 3", "the old bread is near 3"])
    assert hits[0].index == 1


def test_a_checkpoint_with_the_query_first_learns_the_other_way_when_asked_and_keeps_it(tmp_path, tiny_llama_dir):
    data = tmp_path / "lists.jsonl"
    data.write_text('{"query": "what to drink", "pos": ["coffee"], "neg": ["bread", "a horse"]}\n' * 2, encoding="utf-8")
    few = dict(stage="score", steps=1, dev_queries=0, num_evaluations=0, list_size=3, max_length=90)
    first = run(tmp_path / "first", data, tiny_llama_dir, prompt="echo", **few)
    second = run(tmp_path / "second", data, first, prompt="document-first", **few)
    third = run(tmp_path / "third", data, second, **few)  # the setting's default puts the query first
    assert [Prompt.load(model).order for model in (first, second, third)] == ["query-first", "document-first", "document-first"]
