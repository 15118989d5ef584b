"""Adapting to long documents: training reads the chunk that counts, and held-out documents are scored whole."""

import numpy as np
import pytest

from prorank.adapt import adapt
from prorank.adapt import adaptation as module
from prorank.adapt.best_chunks import best_chunks
from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.tiny import WORDS, toy_lists, write_jsonl

PROMPT = Prompt.preset("echo", max_length=400, chunk_length=60)
LONG = " ".join(f"{WORDS[i % len(WORDS)]} {i}" for i in range(120))
GROUP = Group("garden", ("a garden", LONG, "a river", LONG[::-1]), (1.0, 1.0, 0.0, 0.0), "q", ("a", "b", "c", "d"))


@pytest.mark.parametrize("preset", ["echo", "document-first", "mxbai", "plain"])
def test_a_long_document_becomes_its_best_chunk(tiny_llama_dir, preset):
    prompt = Prompt.preset(preset, max_length=400, chunk_length=60)
    reranker = Reranker(tiny_llama_dir, device="cpu", dtype="fp32", prompt=prompt)
    (made,) = best_chunks(reranker, [GROUP])
    assert made.documents[0::2] == GROUP.documents[0::2] and made.labels == GROUP.labels and made.doc_ids == GROUP.doc_ids
    chunks = reranker.encoder.encode_chunks(GROUP.query, [LONG], truncation=reranker.strategy.truncation)[0]
    texts = [reranker.encoder.document_text(chunk) for chunk in chunks]
    assert len(texts) > 3 and all(text in LONG for text in texts) and texts[0] == LONG[: len(texts[0])]
    scores = reranker.score_encoded([(chunks, texts)]).scores[0]
    assert made.documents[1] == texts[int(np.argmax(scores))]
    assert scores.max() == pytest.approx(reranker.score_lists([GROUP.query], [[LONG]])[0][0], abs=1e-4)


def test_groups_stay_where_documents_are_truncated(tiny_llama_dir):
    cut = Reranker(tiny_llama_dir, device="cpu", dtype="fp32", prompt=PROMPT, long_documents="truncate")
    assert best_chunks(cut, [GROUP]) == [GROUP]


@pytest.mark.parametrize("long_documents", ["auto", "truncate"])
def test_adapt_trains_on_chunks_and_is_judged_on_whole_documents(tmp_path, tiny_llama_dir, monkeypatch, long_documents):
    rows = [row | {"query": f"{row['query']} {i}"} for i, row in enumerate(toy_lists(40))]
    for row in rows:
        row["pos"] = [f"{text} {LONG}" for text in row["pos"]]
    judged = []
    monkeypatch.setattr(module, "scores_of", lambda path, groups, prompt, **options: judged.append((groups, options)) or [
        np.arange(len(group.labels), dtype=float) for group in groups
    ])  # fmt: skip
    settings = {
        "dtype": "fp32",
        "device": "cpu",
        "prompt": PROMPT.name,
        "max_length": 400,
        "list_size": 3,
        "batch_size": 2,
        "save_every": 0,
    }
    data = write_jsonl(tmp_path / "labels.jsonl", rows)
    adapt(data, str(tiny_llama_dir), tmp_path / "out", minutes=0.02, held_out=10, long_documents=long_documents, **settings)
    longest = {
        name: max(len(d) for g in read_groups(tmp_path / "out" / f"{name}.jsonl") for d in g.documents)
        for name in ("train", "held-out")
    }
    assert longest["held-out"] > len(LONG) and all(len(d) > len(LONG) for groups, _ in judged for d in groups[0].documents[:1])
    assert {options["long_documents"] for _, options in judged} == {long_documents}
    assert (longest["train"] < len(LONG)) == (long_documents == "auto")
