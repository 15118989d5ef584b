"""Lists of the default model: who gets into a list and what a teacher's score is made of."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.checkpoints.sources import BUILT_IN
from prorank.data.beir import Collection
from prorank.data.examples import Group, normalised, same_documents
from prorank.data.formats import read_groups, write_groups
from prorank.demo.task_files import TaskPaths
from prorank.rank.text_encoders import TextEncoder
from prorank.train.settings.stage_settings import load_settings
from recipes.default import blocks, lists, tags
from recipes.default.blocks import HARD, OTHERS, QUERIES, blocks_of, documents_of, neighbours, sources_of
from recipes.default.lists import FAR, HELD_OUT, LABEL_WEIGHT, NEAR, RANDOM, Source, candidates, groups_of, parts, teacher, titles
from tests.tiny import write_jsonl


def collection(size: int = 60) -> Collection:
    kinds = [i % (size - 3) for i in range(size)]  # the last three repeat the first
    corpus = {f"d{i}": f"text {kind} about topic {kind % 7}" for i, kind in enumerate(kinds)}
    return Collection("toy", corpus, {"q": "topic 3"}, {"q": {"d3": 2, "d10": 1, "d17": 0}})


@given(seed=st.integers(0, 1000))
def test_relevant_documents_come_first_and_no_text_twice(seed: int) -> None:
    toy = collection()
    ids = list(toy.corpus)
    chosen = candidates(toy, "q", ids[:40], ids[10:25], Random(seed))
    assert set(chosen[:2]) == {"d3", "d10"}
    texts = [normalised(toy.corpus[doc]) for doc in chosen]
    assert len(set(texts)) == len(texts) <= 2 + 2 * NEAR + FAR + RANDOM


def test_a_repeated_relevant_text_is_no_other() -> None:
    toy = collection()
    twin = next(doc for doc, text in list(toy.corpus.items())[-3:] if text == toy.corpus["d0"])
    toy.qrels["q"] = {"d0": 1}
    assert all(twin not in candidates(toy, "q", [twin], [twin], Random(seed)) for seed in range(20))


def test_a_label_adds_to_what_both_first_stages_say() -> None:
    scores = teacher((0.0, 1.0, 0.0), [np.array([0.1, 0.1, 0.3])], np.array([2.0, 2.0, 8.0]), [0.1, 3.0])
    assert scores[1] - scores[0] == pytest.approx(LABEL_WEIGHT)  # equal but for the label
    assert np.isclose(scores[2] - scores[0], (2 + 0.5 * 2) / 1.5)
    cosines = [np.array([0.1, 0.1, 0.3]), np.array([0.5, 0.5, 0.1])]
    scores = teacher((0.0, 1.0, 0.0), cosines, np.array([2.0, 2.0, 8.0]), [0.1, 0.2, 3.0])
    assert np.isclose(scores[2] - scores[0], (2 - 2 + 0.5 * 2) / 2.5)


def test_groups_carry_ids_grades_and_scores() -> None:
    toy = collection()
    vectors = np.random.default_rng(0).normal(size=(61, 8)).astype(np.float32)
    (group,) = groups_of(Source(toy, vectors[:60], vectors[60:]), seed=0)
    assert group.query_id == "toy/q" and group.labels[:2] in {(2.0, 1.0), (1.0, 2.0)}
    assert len(group.teacher) == len(group.documents) == len(group.doc_ids)


def test_titles_of_test_documents_are_not_asked(tmp_path) -> None:
    corpus = [{"_id": f"d{i}", "title": f"Title {i}.", "text": f"Body {i}"} for i in range(3)]
    corpus.append({"_id": "d9", "title": "", "text": "without a title"})
    (tmp_path / "qrels").mkdir()
    write_jsonl(tmp_path / "corpus.jsonl", corpus)
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "asked"}])
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    found = titles(tmp_path)
    assert found.queries == {"d0": "Title 0", "d2": "Title 2"}
    assert found.corpus["d1"] == "Body 1" and "d9" not in found.corpus


def test_each_source_gives_dev_calibration_and_training_lists_that_share_no_query() -> None:
    made = [[Group(f"{name} {i}", ("a", "b"), (1.0, 0.0)) for i in range(50)] for name in ("one", "two")]
    found = parts(made, seed=0)
    assert {part: len(groups) for part, groups in found.items()} == {"dev": 16, "calibration": 64, "train": 20}
    assert len({g.query for groups in found.values() for g in groups}) == 100
    assert sum(g.query.startswith("one") for g in found["dev"]) == HELD_OUT["dev"]
    assert parts(made, seed=0) == found != parts(made, seed=1)


def test_the_settings_of_all_steps_are_valid_and_fit_together() -> None:
    folder = Path(__file__).parents[1] / "recipes" / "default"
    names = ("warmup", "score", "blocks", "tags", "second")
    warm, fine, shared, last, second = (load_settings(folder / f"{name}.yaml") for name in names)
    assert [step.stage for step in (warm, fine, shared, last, second)] == ["warmup", "score", "score", "score", "score"]
    assert (warm.base, fine.base, last.base, second.base) == (BUILT_IN, warm.out, shared.out, last.out)
    assert warm.lora == fine.lora == shared.lora == last.lora and warm.prompt == fine.prompt and shared.prompt == last.prompt
    commands = (folder / "README.md").read_text(encoding="utf-8")
    assert all(key in commands for key in (f"base={fine.out}", f"out={shared.base}", shared.data, last.data, second.data))
    assert all(f"{key} " in commands for key in (f"base={second.out}", "ship runs/default/second", "calibrate runs/default/second"))


def lists_of(source: str, count: int) -> list[Group]:
    """Lists of one relevant and 13 other texts, the same others for every fifth query."""
    others = [tuple(f"{source} text {i % 5} about {k}" for k in range(13)) for i in range(count)]
    return [Group(f"asks {i}", (f"{source} answer {i}", *others[i]), (1.0, *[0.0] * 13), f"{source}/q{i}") for i in range(count)]


def encode(texts: list[str]) -> np.ndarray:
    """Unit vectors of the texts' letters."""
    vectors = np.array([np.bincount([ord(c) % 64 for c in text], minlength=64) for text in texts], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


ENCODER = TextEncoder(encode, encode)


@given(count=st.integers(0, 30), seed=st.integers(0, 99))
def test_neighbours_are_each_others_and_none_comes_twice(count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, 4))
    sets = list(neighbours(vectors, QUERIES, Random(seed)))
    places = [i for some in sets for i in some]
    assert len(sets) == count // QUERIES and len(set(places)) == len(places)
    if sets:
        first, *near = sets[0]
        outside = set(range(count)) - set(sets[0])
        assert all(vectors[first] @ vectors[i] >= vectors[first] @ vectors[j] for i in near for j in outside)


def test_a_block_shows_each_querys_answer_and_first_others() -> None:
    groups = lists_of("one", QUERIES)
    chosen = documents_of(groups, Random(0))
    assert len(chosen) == len(set(chosen)) == QUERIES * (1 + OTHERS)
    for group in groups:
        assert group.documents[0] in chosen
        assert sum(text in group.documents[1 : 1 + HARD] for text in chosen) >= OTHERS


def test_all_pairs_of_a_block_are_scored_and_it_is_read_as_a_unit(tmp_path) -> None:
    groups = lists_of("one", 10)
    made = blocks_of(groups, [ENCODER], seed=0)
    assert len(made) == 10 // QUERIES and made == blocks_of(groups, [ENCODER], seed=0) != blocks_of(groups, [ENCODER], seed=1)
    for block in made:
        assert len({group.documents for group in block}) == 1
        for group in block:
            right = f"one answer {group.query.split()[1]}"
            assert group.labels == tuple(float(text == right) for text in group.documents) and sum(group.labels) == 1
            assert len(group.teacher) == len(group.documents)
    path = tmp_path / "blocks.jsonl"
    write_groups(path, [group for block in made for group in block])
    units = same_documents(read_groups(path), max_queries=8)
    assert [{g.query for g in unit} for unit in units] == [{g.query for g in block} for block in made]


def test_sources_are_told_by_the_ids() -> None:
    found = sources_of([*lists_of("one", 2), *lists_of("two", 3)])
    assert {name: len(groups) for name, groups in found.items()} == {"one": 2, "two": 3}


def test_half_of_the_blocks_come_twice_from_lists_of_their_own_with_labels_weighed_double(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "encoder", lambda: ENCODER)
    write_groups(tmp_path / "train.jsonl", [*lists_of("one", 40), *lists_of("two", 40), *lists_of("three", 8)])
    write_groups(tmp_path / "more.jsonl", lists_of("two", 12))
    train, out, more = (str(tmp_path / f"{name}.jsonl") for name in ("train", "out", "more"))
    monkeypatch.setattr("sys.argv", ["blocks", train, out, "--half", more])
    blocks.main()
    found = read_groups(tmp_path / "out.jsonl")
    made = [found[i : i + QUERIES] for i in range(0, len(found), QUERIES)]
    source = lambda group: group.query_id.partition("/")[0]  # noqa: E731
    assert all(len({source(group) for group in block}) == 1 for block in made)
    assert sum(source(block[0]) == "two" for block in made) == 2 * 3 and len(made) == 2 * 2 * 3
    assert sorted(g.query for g in found if source(g) == "two") == sorted(2 * [g.query for g in lists_of("two", 12)])
    once = {g.query: g for g in (group for block in blocks_of(lists_of("two", 12), [ENCODER], seed=0) for group in block)}
    same = [g for g in found if source(g) == "two" and set(g.documents) == set(once[g.query].documents)]
    assert len(same) >= 12
    for group in same:
        scores = dict(zip(once[group.query].documents, once[group.query].teacher))
        gained = [score - scores[text] for text, score in zip(group.documents, group.teacher)]
        assert np.allclose(gained, np.array(group.labels) * LABEL_WEIGHT, atol=1e-5)


def test_without_a_half_the_blocks_come_in_the_order_of_the_run_that_was_shipped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "encoder", lambda: ENCODER)
    write_groups(tmp_path / "train.jsonl", [*lists_of("one", 24), *lists_of("two", 24)])
    monkeypatch.setattr("sys.argv", ["blocks", str(tmp_path / "train.jsonl"), str(tmp_path / "out.jsonl"), "--seed", "2"])
    blocks.main()
    made = [block for name in ("one", "two") for block in blocks_of(lists_of(name, 24), [ENCODER], seed=2)]
    Random("blocks/2").shuffle(made)
    assert [g.query_id for g in read_groups(tmp_path / "out.jsonl")] == [g.query_id for block in made for g in block]


def test_tags_lists_name_all_texts_of_a_tag_and_leave_out_what_others_hold(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "semanlink-train"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "text": f"a text on topic {i % 4}, number {i}"} for i in range(24)]
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{k}", "text": f"topic {k}"} for k in range(4)])
    rows = [f"q{i % 4}\td{i}\t1" for i in range(24)]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows) + "\n")
    for part, query in (("dev", "semanlink/q0"), ("calibration", "semanlink/q1")):
        write_groups(tmp_path / f"{part}.jsonl", [Group("topic", ("a", "b"), (1.0, 0.0), query)])
    monkeypatch.setattr(tags, "encoder", lambda: ENCODER)
    monkeypatch.setattr(lists, "semanlink", lambda: TaskPaths(folder, folder))
    monkeypatch.setattr("sys.argv", ["tags", str(tmp_path)])
    tags.main()
    found = read_groups(tmp_path / "tags.jsonl")
    assert sorted(group.query_id for group in found) == ["semanlink/q2", "semanlink/q3"]
    assert all(sum(group.labels) == 6 for group in found)
