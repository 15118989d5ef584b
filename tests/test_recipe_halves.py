"""The recipe's long queries: halves of documents that ask for their other halves."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups
from prorank.rank.text_encoders import TextEncoder
from recipes.default import halves as recipe
from recipes.default.halves import FEW, PER_SOURCE, QUERY, halved, halves

sentences = st.lists(st.lists(st.sampled_from("ash birch elm fir".split()), min_size=1, max_size=60).map(" ".join), min_size=2)


@given(sentences=sentences, seed=st.integers(0, 99))
def test_the_halves_are_whole_sentences_of_the_text_and_its_query_is_limited(sentences, seed):
    text = ". ".join(sentences) + "."
    query, document = halves(text, Random(seed))
    assert document in text and len(query.split()) <= QUERY
    if len(query.split()) < QUERY:
        assert {f"{query} {document}", f"{document} {query}"} & {text}
    assert document.endswith(".")


def test_one_sentence_has_no_halves():
    assert halves("a text without an end " * 40, Random(0)) is None


def groups(documents: int, words: int) -> list[Group]:
    def text(i: int) -> str:
        return " ".join(f"Word{i} w{n}." for n in range(words // 2))

    return [Group(f"q{i}", (text(i), f"short {i}"), (1.0, 0.0), f"s/{i}") for i in range(documents)]


def test_only_long_relevant_documents_ask_and_each_finds_its_other_half():
    made = halved("s", groups(PER_SOURCE + 30, 120), seed=1)
    assert made.name == "s-halves" and len(made.queries) == PER_SOURCE
    assert all(made.queries[q].split()[0] == made.corpus[d].split()[0] for q, row in made.qrels.items() for d in row)
    assert any(text.startswith("short") for text in made.corpus.values())
    assert made == halved("s", groups(PER_SOURCE + 30, 120), seed=1) != halved("s", groups(PER_SOURCE + 30, 120), seed=2)
    assert halved("s", groups(FEW - 1, 120), seed=1) is None and halved("s", groups(200, 40), seed=1) is None


def test_the_command_writes_lists(tmp_path, monkeypatch):
    def vectors(texts) -> np.ndarray:
        return np.array([np.random.default_rng(len(text)).normal(size=4) for text in texts], np.float32)

    source, out = tmp_path / "train.jsonl", tmp_path / "halves.jsonl"
    write_groups(source, groups(60, 120))
    monkeypatch.setattr("sys.argv", ["halves", str(source), str(out)])
    monkeypatch.setattr(recipe, "encoder", lambda: TextEncoder(vectors, vectors))
    recipe.main()
    made = read_groups(out)
    assert len(made) == 60 and all(g.labels.count(1.0) == 1 and len(g.query.split()) > 20 and g.teacher for g in made)
