"""An index: documents are read once, and scores equal those of a Reranker that reads them for every query."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank import Reranker
from prorank.engine import cached_attention, key_value_models
from prorank.engine.cached_attention import CachedAttention
from prorank.engine.key_values import KeyValues, quantise_key_values
from prorank.errors import ConfigError, DataError
from prorank.index import index_scores, segment_builder
from prorank.index.document_index import Index
from prorank.index.index_scores import cached_prompts
from prorank.index.segments import locate
from prorank.prompts.prompt import Prompt
from tests.test_engine import save_qwen3
from tests.tiny import byte_tokenizer, tiny_llama4

WORDS = "bread needs flour and water while rivers run to the sea and castles stand on hills of stone".split()
LONG = " ".join(WORDS[i % len(WORDS)] for i in range(150))
DOCUMENTS = ["bread", LONG, {"id": "sea", "title": "Sea", "text": "rivers run"}, "", {"_id": "again", "text": "bread"}, LONG[::-1]]
PROMPT = Prompt.preset("document-first", max_length=300, chunk_length=48)
UNLIMITED = Prompt.preset("plain", max_length=160)  # documents take what the query leaves
TOLERANCE = {"fp32": 1e-5, "bf16": 0.03, "int8": 1e-3}
TEXTS = st.lists(st.sampled_from([*WORDS, "\n", "<|im_end|>", "é"]), max_size=60).map(" ".join)
QUERIES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=90).map(" ".join)


def load(folder, dtype="fp32", prompt=PROMPT, **options) -> Reranker:
    return Reranker(folder, device="cpu", dtype=dtype, prompt=prompt, **options)


@pytest.fixture(scope="module")
def llama(tiny_llama_dir) -> Reranker:
    return load(tiny_llama_dir)


@pytest.fixture(scope="module")
def qwen2(tiny_qwen2_dir) -> Reranker:
    return load(tiny_qwen2_dir)


@pytest.fixture(scope="module")
def unlimited(tiny_llama_dir) -> Reranker:
    return load(tiny_llama_dir, prompt=UNLIMITED)


@pytest.fixture(scope="module")
def index(llama) -> Index:
    return llama.index(DOCUMENTS)


def prompts_of(index: Index, query: str) -> list[list]:
    located = locate(index.segments, range(len(index)))
    return [[c.prompt for c in row] for row in cached_prompts(index.reranker, index.settings, query, located)]


def spans(prompts: list) -> list[int]:
    return [prompt.document_end - prompt.document_start for prompt in prompts]


def uncached_prompts(index: Index, query: str) -> list[list]:
    texts = [hit.text for hit in sorted(index.rank(query), key=lambda hit: hit.index)]
    strategy = index.reranker.strategy
    return strategy.encoder.encode_chunks(query, texts, index.settings.instruction, strategy.truncation)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_scores_equal_those_without_an_index(kind, dtype, request):
    reranker = load(request.getfixturevalue(f"tiny_{kind}_dir"), dtype)
    index = reranker.index(DOCUMENTS)
    for query in ("bread", "what runs to the sea", LONG):
        assert index.score(query) == pytest.approx(reranker.score_lists([query], [DOCUMENTS])[0], abs=TOLERANCE[dtype])


@settings(max_examples=30)
@given(documents=st.lists(TEXTS, min_size=1, max_size=12), queries=st.lists(QUERIES, min_size=1, max_size=2), data=st.data())
def test_any_documents_and_queries_have_the_same_prompts_and_scores(llama, qwen2, documents, queries, data):
    reranker = data.draw(st.sampled_from([llama, qwen2]))
    index = reranker.index(documents)
    for query in queries:
        assert prompts_of(index, query) == uncached_prompts(index, query)
        batch_size = data.draw(st.sampled_from([None, 1, 3]))
        hits = index.rank(query, batch_size=batch_size)
        expected = reranker.rank(query, documents)
        by_index = {hit.index: hit.score for hit in expected}
        assert [hit.score for hit in hits] == pytest.approx([by_index[hit.index] for hit in hits], abs=1e-5)
        assert sorted(by_index) == sorted(hit.index for hit in hits) and all(h.document == documents[h.index] for h in hits)


@given(words=st.integers(1, 100), query_words=st.integers(1, 100), room=st.integers(1, 60))
def test_prompts_are_equal_where_the_document_leaves_room_for_the_query(unlimited, words, query_words, room):
    query, document = " ".join(WORDS[i % 5] for i in range(query_words)), " ".join(WORDS[i % 7] for i in range(words))
    index = unlimited.index([document], query_room=room)
    (cached,), (uncached,) = prompts_of(index, query), uncached_prompts(index, query)
    assert all(len(prompt.ids) <= unlimited.encoder.longest for prompt in cached)
    if spans(cached) == spans(uncached):
        assert cached == uncached
        assert index.score(query) == pytest.approx(unlimited.score([(query, document)]), abs=1e-5)
    without_query = len(unlimited.encoder.encode("", "").ids)
    for prompt in cached:  # the query is whole, or has the room that was kept for it
        assert prompt.query_cut == 0 or len(prompt.ids) - prompt.document_end + prompt.document_start - without_query >= room


def test_a_query_that_does_not_fit_beside_a_document_is_cut_and_counted(tiny_llama_dir):
    reranker = load(tiny_llama_dir, prompt=UNLIMITED)
    index = reranker.index([LONG, "bread"], query_room=10)
    (first, *_), (short,) = prompts_of(index, LONG)
    frame = reranker.encoder.frames_of_lengths(LONG, [0])[0]
    assert len(first.ids) == reranker.encoder.longest and first.query_cut > frame.query_cut
    assert short == reranker.encoder.encode(LONG, "bread")
    index.score(LONG)
    assert reranker.cuts.queries == 1 and reranker.cuts.query_tokens == first.query_cut
    assert reranker.cuts.chunked == 1 and reranker.cuts.total == 2 and reranker.cost.calls == len(prompts_of(index, LONG)[0]) + 1


def test_truncated_documents_are_counted(tiny_llama_dir):
    reranker = load(tiny_llama_dir, long_documents="truncate")
    index = reranker.index(DOCUMENTS)
    assert index.score("bread") == pytest.approx(reranker.score_lists(["bread"], [DOCUMENTS])[0], abs=1e-5)
    assert (reranker.cuts.total, reranker.cuts.documents) == (12, 4)


def test_hits_have_the_options_of_rank(index, llama):
    everything = index.rank("bread")
    assert [h.index for h in everything] == [h.index for h in llama.rank("bread", DOCUMENTS)]
    assert everything[0].document == DOCUMENTS[everything[0].index]
    assert index.rank("bread", top_k=2) == everything[:2] == index.rank("bread", top_n=2)
    middle = everything[2].score
    assert index.rank("bread", min_score=middle) == [hit for hit in everything if hit.score >= middle]
    assert len(index) == 6 and index.ids == ["0", "1", "sea", "3", "again", "5"] and index.nbytes > 0


def test_ids_choose_documents(index):
    scores = index.score("bread")
    hits = index.rank("bread", ids=["sea", 1, "again", "0"])
    assert {hit.index: hit.score for hit in hits} == pytest.approx({i: scores[i] for i in (2, 1, 4, 0)}, abs=1e-5)
    assert [hit.index for hit in hits if hit.index in (0, 4)] == [4, 0]  # equal texts, in the order of the ids
    assert index.score("bread", ["5", "0"]) == pytest.approx(scores[[5, 0]], abs=1e-5)
    assert index.rank("bread", ids=[]) == []
    with pytest.raises(DataError, match="id 'land' is not in the index of 6 documents"):
        index.rank("bread", ids=["sea", "land"])
    with pytest.raises(DataError, match="id 1 occurs twice"):
        index.rank("bread", ids=["1", 1])
    with pytest.raises(DataError, match="ids must be a list"):
        index.rank("bread", ids="sea")


def test_many_queries_are_ranked_as_one_by_one(index):
    queries, ids = ["bread", "what runs to the sea", LONG], [["sea", 1], [], ["again", "0", "3"]]
    assert index.rank_many(queries) == [index.rank(query) for query in queries]
    many = index.rank_many(queries, (names for names in ids), top_k=2)
    assert many == [index.rank(query, names, top_k=2) for query, names in zip(queries, ids)] and many[1] == []
    assert index.rank_many([]) == []
    with pytest.raises(DataError, match="3 queries but 2 lists of ids; give one list per query"):
        index.rank_many(queries, ids[:2])
    with pytest.raises(DataError, match="ids of query 1 must be a list"):
        index.rank_many(queries, [["sea"], "sea", []])
    with pytest.raises(DataError, match="query 1 is ' '"):
        index.rank_many(["bread", " "])
    with pytest.raises(DataError, match="queries must be a list"):
        index.rank_many("bread")


def test_equal_texts_have_equal_scores(index):
    scores = index.score("what is bread")
    assert scores[0] == scores[4]


def test_documents_are_added_to_an_index_in_memory(llama):
    index = llama.index(DOCUMENTS[:2])
    index.add(DOCUMENTS[2:])
    assert index.ids == llama.index(DOCUMENTS).ids and index.documents == DOCUMENTS
    assert index.score("sea") == pytest.approx(llama.score_lists(["sea"], [DOCUMENTS])[0], abs=1e-5)
    with pytest.raises(DataError, match="same id 'sea'"):
        index.add([{"id": "sea", "text": "salt"}])
    assert len(index) == 6


def test_many_segments_passes_groups_and_batches_change_nothing(llama, monkeypatch):
    documents = [" ".join(random.Random(i).choices(WORDS, k=i % 37)) for i in range(150)]
    whole = llama.index(documents).score("bread and water")
    monkeypatch.setattr(segment_builder, "SEGMENT_BYTES", 1 << 16)
    monkeypatch.setattr(segment_builder, "PASS_BYTES", 1 << 14)
    monkeypatch.setattr(index_scores, "WINDOW", 32)
    monkeypatch.setattr(index_scores, "MAX_ROWS", 100)
    monkeypatch.setattr(cached_attention, "MAX_SCORES", 5000)
    calls: list[int] = []
    index = llama.index(documents)
    assert len(index.segments) > 3
    assert index._score("bread and water", list(range(150)), progress=calls.append) == pytest.approx(whole, abs=1e-5)
    assert sum(calls) == 150
    assert whole == pytest.approx(llama.score_lists(["bread and water"], [documents])[0], abs=1e-5)


def test_progress_counts_every_document_once(llama, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(segment_builder, "PASS_BYTES", 1 << 14)
    index = llama.index(["bread"])
    list(segment_builder.build_segments(llama, index.settings, DOCUMENTS, [LONG, LONG, "a", "", "", "b"], calls.append))
    assert sum(calls) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2)])
def test_the_default_model_scores_equally_with_an_index(dtype, tolerance):
    reranker = Reranker(device="cpu", dtype=dtype)
    documents = [" ".join(random.Random(words).choices(WORDS, k=words)) for words in (3, 100, 400)]
    index = reranker.index(documents)
    for query in ("how is bread made", " ".join(random.Random(1).choices(WORDS, k=300))):
        assert prompts_of(index, query) == uncached_prompts(index, query)
        assert index.score(query) == pytest.approx(reranker.score_lists([query], [documents])[0], abs=tolerance)
    assert reranker.cuts.chunked > 0


@pytest.mark.parametrize("storage", ["int8", "bf16"])
def test_rounded_storage_is_smaller_and_close(llama, storage):
    exact, rounded = llama.index(DOCUMENTS), llama.index(DOCUMENTS, storage=storage)
    assert rounded.nbytes < 0.7 * exact.nbytes
    difference = np.abs(rounded.score("bread") - exact.score("bread"))
    assert 0 < difference.max() < 0.05


def test_int8_rounds_every_channel_by_its_own_step():
    torch.manual_seed(0)
    values = torch.randn(2, 2, 3, 7, 4) * torch.tensor([0.01, 1.0, 10.0, 100.0])
    stored = quantise_key_values(values)
    out = torch.empty(2, 3, 7, 4)
    for layer in range(2):
        stored.copy_layer(layer, out)
        largest = values[layer].abs().amax(2, keepdim=True)
        assert ((out - values[layer]).abs() <= 0.51 * largest / 127).all()
    assert stored.values.dtype == torch.int8 and stored.scales is not None and stored.scales.shape == (2, 2, 3, 1, 4)


def test_padding_is_never_attended_to(llama):
    engine = llama.runtime.engine
    shape = len(engine.layers), 2, engine.num_kv_heads, 40, engine.head_dim
    torch.manual_seed(0)
    texts, head = torch.randn(shape), KeyValues(torch.randn(shape)[:, :, :, :3])
    q, k, v = (torch.randn(10, heads, engine.head_dim) for heads in (engine.num_heads, engine.num_kv_heads, engine.num_kv_heads))
    together = CachedAttention(engine, head, [KeyValues(texts), KeyValues(texts[:, :, :, :2])], 5)
    alone = CachedAttention(engine, head, [KeyValues(texts[:, :, :, :2])], 5)
    assert torch.allclose(together(0, q, k, v)[5:], alone(0, q[5:], k[5:], v[5:]), atol=1e-6)
    keys, values = (torch.cat((head.values[1, i], texts[1, i], new[:5].transpose(0, 1)), 1) for i, new in enumerate((k, v)))
    mask = torch.ones(5, keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - 5)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q[:5].transpose(0, 1)[None], keys[None], values[None], mask, scale=1.0, enable_gqa=True
    )
    assert torch.allclose(together(1, q, k, v)[:5], expected[0].transpose(0, 1).flatten(1), atol=1e-5)


def test_an_instruction_belongs_to_the_index(llama):
    index = llama.index(DOCUMENTS, instruction="prefer castles")
    expected = llama.score_lists(["bread"], [DOCUMENTS], instruction="prefer castles")[0]
    assert index.score("bread") == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected - llama.score_lists(["bread"], [DOCUMENTS])[0]).max() > 1e-3


def test_probabilities_are_those_of_the_calibration(tiny_llama_dir, tmp_path):
    import shutil

    from prorank.checkpoints.calibration import Calibration

    folder = shutil.copytree(tiny_llama_dir, tmp_path / "calibrated")
    known = load(folder)
    Calibration("temperature", {"temperature": 4.0}, prompt_id=known.prompt_fingerprint, weights=known.weight_hashes).save(folder)
    reranker = load(folder)
    hits, expected = reranker.index(DOCUMENTS).rank("bread"), reranker.rank("bread", DOCUMENTS)
    assert [hit.probability for hit in hits] == pytest.approx([hit.probability for hit in expected])
    assert hits[0].probability is not None
    assert all(hit.probability is None for hit in reranker.index(DOCUMENTS, instruction="other").rank("bread"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": Prompt.preset("echo")}, "needs a prompt with order: document-first, not query-first"),
        ({"prompt": Prompt.preset("rerank-r0")}, "without a thought; load it with think=False"),
        ({"prompt": Prompt.preset("setwise"), "method": "setwise"}, "without a thought; use method pointwise"),
    ],
)
def test_models_that_cannot_make_an_index_are_refused(tiny_llama_dir, options, message):
    with pytest.raises(ConfigError, match=message):
        load(tiny_llama_dir, **options).index(DOCUMENTS)


def test_a_model_in_memory_is_refused(llama):
    from prorank.checkpoints.loading import load_model
    from prorank.checkpoints.resolve import resolve

    model = load_model(resolve(llama.name), torch.float32, torch.device("cpu"))
    with pytest.raises(ConfigError, match="needs weights that cannot change; save the model"):
        Reranker.of(model, llama.tokenizer, PROMPT).index(DOCUMENTS)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_layers_of_transformers_give_the_same_scores(tmp_path, dtype, monkeypatch):
    reranker = load(save_qwen3(tmp_path / "qwen3"), dtype)
    expected = reranker.index(DOCUMENTS).score("what runs to the sea")
    reranker.runtime.engine = None  # as on a GPU
    monkeypatch.setattr(key_value_models, "PAST_BYTES", 1 << 16)
    index = reranker.index(DOCUMENTS)
    assert index.score("what runs to the sea") == pytest.approx(expected, abs=TOLERANCE[dtype])
    assert index.score(LONG) == pytest.approx(reranker.score_lists([LONG], [DOCUMENTS])[0], abs=TOLERANCE[dtype])
    rounded = reranker.index(DOCUMENTS, storage="int8").score("bread")
    assert rounded == pytest.approx(index.score("bread"), abs=0.1)


def test_other_layers_are_refused(tmp_path):
    from prorank.checkpoints.saving import save_checkpoint

    tokenizer = byte_tokenizer()
    save_checkpoint(tmp_path / "llama4", tiny_llama4(tokenizer), PROMPT.bind(tokenizer))
    with pytest.raises(ConfigError, match="stored keys and values need plain attention as in llama, .*, not llama4_text"):
        Reranker(tmp_path / "llama4", device="cpu", dtype="fp32").index(DOCUMENTS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"storage": "int4"}, ConfigError, "storage 'int4' is not known; valid: model, bf16, int8"),
        ({"query_room": 0}, ConfigError, "query_room must be at least 1"),
        ({"query_room": 1000}, ConfigError, "query_room must be at most 1"),
        ({"instruction": 3}, DataError, "the instruction must be a text"),
        ({"documents": []}, DataError, "there are no documents to index"),
        ({"documents": "bread"}, DataError, "documents must be a list"),
        ({"documents": [{"id": 1, "text": "a"}, {"id": "1", "text": "b"}]}, DataError, "same id '1'"),
        ({"documents": ["a", 3]}, DataError, "document 1 must be a string"),
    ],
)
def test_invalid_arguments_are_refused(llama, options, error, message):
    with pytest.raises(error, match=message):
        llama.index(**{"documents": DOCUMENTS} | options)
    with pytest.raises(DataError, match="the query is ' '"):
        llama.index(["a"]).rank(" ")
