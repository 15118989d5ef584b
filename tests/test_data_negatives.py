"""Mining and BM25: every guard drops what it is for, counts it, and leaves a draw that a seed repeats.

The corpora here are built so that one guard alone decides; switching it off would change the group.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prorank.data.beir import Collection, read_beir
from prorank.data.bm25 import Bm25
from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.data.negatives import mine_negatives, write_groups
from prorank.errors import ConfigError, DataError

pytest.importorskip("bm25s")

FILLER = "one two three four five six seven eight nine ten"


def collection(extra: dict[str, str] | None = None, labels: dict[str, int] | None = None) -> Collection:
    """A query, a relevant document, eight others with a word of the query, eight without."""
    corpus = {"rel": f"the red fox in the snow {FILLER}"}
    corpus |= {f"fox{i}": f"a fox number{i} with story{i} and much else{i}" for i in range(8)}
    corpus |= {f"far{i}": f"nothing{i} to see{i} here{i}" for i in range(8)}
    return Collection("toy", corpus | (extra or {}), {"q": "red fox"}, {"q": labels or {"rel": 1}})


def mined_ids(made: list[Group]) -> set[str]:
    return {doc for doc, label in zip(made[0].doc_ids, made[0].labels) if label == 0}


def test_group_holds_relevant_first_then_hard_ones() -> None:
    groups, report = mine_negatives(collection(), negatives=5)
    (group,) = groups
    assert (group.query, group.query_id, group.doc_ids[0], group.labels) == ("red fox", "q", "rel", (1.0, *[0.0] * 5))
    assert all(doc.startswith("fox") for doc in mined_ids(groups))
    assert (report.groups, report.positives, report.mined, report.random, report.short) == (1, 1, 5, 0, 0)
    assert report.dropped == {"relevant": 1}


def test_seed_repeats_and_changes_the_draw() -> None:
    draws = [mine_negatives(collection(), negatives=4, seed=seed)[0] for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len({group.doc_ids for (group,) in draws}) > 1


def test_random_documents_fill_up_and_short_groups_are_counted() -> None:
    groups, report = mine_negatives(collection(), negatives=12)
    assert (report.mined, report.random, report.short) == (8, 4, 0)
    _, report = mine_negatives(collection(), negatives=40)
    assert (report.mined, report.random, report.short) == (8, 8, 1)
    assert len(set(groups[0].doc_ids)) == 13


def test_random_negatives_are_taken_where_asked_for() -> None:
    groups, report = mine_negatives(collection(), negatives=6, random=4)
    assert (report.mined, report.random, report.short) == (2, 4, 0)
    assert sum(doc.startswith("far") for doc in mined_ids(groups)) == 4
    _, report = mine_negatives(collection(), negatives=6, random=6)
    assert (report.mined, report.random) == (0, 6)
    with pytest.raises(ConfigError, match="random <= negatives; .* random 7"):
        mine_negatives(collection(), negatives=6, random=7)


def test_near_duplicates_and_copies_are_dropped() -> None:
    extra = {"near": f"red fox in snow {FILLER}", "copy": "THE red fox, in the snow " + FILLER, "asked": "Red fox?"}
    extra |= {"again": "a fox number0 with story0 and much else0!"}
    groups, report = mine_negatives(collection(extra), negatives=9)
    assert not {"near", "copy", "asked"} & mined_ids(groups)
    assert {"fox0", "again"} & mined_ids(groups) and not {"fox0", "again"} <= mined_ids(groups)
    assert {reason: report.dropped[reason] for reason in ("near_duplicate", "is_query", "repeated")} == {
        "near_duplicate": 2,
        "is_query": 1,
        "repeated": 1,
    }


def test_windows_drop_the_top() -> None:
    extra = {"top": "red red fox fox"}
    assert "top" in mined_ids(mine_negatives(collection(extra), negatives=9)[0])
    groups, report = mine_negatives(collection(extra), negatives=8, max_ratio=1.0)
    assert "top" not in mined_ids(groups) and report.dropped["score_window"] == 1
    groups, report = mine_negatives(collection(extra), negatives=7, skip_top=2)
    assert "top" not in mined_ids(groups) and report.dropped["rank_window"] == 1  # the other of the two is relevant
    groups, report = mine_negatives(collection(extra), negatives=3, depth=3)
    assert (report.mined, report.random) == (2, 1)


def test_what_a_window_dropped_does_not_return_as_random() -> None:
    groups, report = mine_negatives(collection({"top": "red red fox fox"}), negatives=17, max_ratio=1.0)
    assert "top" not in mined_ids(groups) and report.random == 8


def test_score_window_is_off_where_the_relevant_shares_no_word() -> None:
    groups, report = mine_negatives(collection({"odd": "vulpes vulpes"}, {"odd": 1}), negatives=5, max_ratio=0.1)
    assert report.mined == 5 and report.dropped["score_window"] == 0


def test_judged_non_relevant_come_first_and_grades_are_kept(tmp_path: Path) -> None:
    labels = {"rel": 3, "far0": 0, "fox1": 1, "fox2": 0, "fox3": 0}
    groups, report = mine_negatives(collection(labels=labels), negatives=4)
    (group,) = groups
    assert group.doc_ids[:2] == ("rel", "fox1") and group.labels == (3.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    assert {"far0", "fox2", "fox3"} < mined_ids(groups) and group.doc_ids[4] == "far0"
    assert (report.judged, report.mined) == (3, 1)
    write_groups(tmp_path / "lists.jsonl", groups)
    assert read_groups(tmp_path / "lists.jsonl") == groups


def test_a_relevant_text_judged_otherwise_elsewhere_is_no_negative() -> None:
    twin = {"twin": f"The red fox in the snow {FILLER}."}
    groups, _ = mine_negatives(collection(twin, {"rel": 1, "twin": 0}), negatives=5)
    assert "twin" not in mined_ids(groups)


def test_excluded_pairs_are_no_negatives() -> None:
    some = collection()
    some.excluded = frozenset(("q", f"fox{i}") for i in range(8))
    groups, report = mine_negatives(some, negatives=8)
    assert report.dropped["excluded"] == 8 and all(doc.startswith("far") for doc in mined_ids(groups))


def test_queries_without_relevant_documents_are_counted() -> None:
    some = collection()
    some.queries["q2"], some.qrels["q2"] = "hen", {"far1": 0}
    groups, report = mine_negatives(some)
    assert (len(groups), report.queries, report.no_positive) == (1, 2, 1)
    with pytest.raises(DataError, match="toy: no query has a relevant document"):
        mine_negatives(collection(labels={"rel": 0}))


def test_bad_input_is_refused_before_any_work() -> None:
    with pytest.raises(DataError, match="document 'gone' .* is not in the corpus"):
        mine_negatives(collection(labels={"rel": 1, "gone": 1}))
    for bad in ({"skip_top": 100}, {"negatives": 0}, {"max_ratio": 0.0}, {"depth": 0}):
        with pytest.raises(ConfigError, match="mine needs"):
            mine_negatives(collection(), **bad)


def test_report_reads_as_one_line() -> None:
    _, report = mine_negatives(collection(), negatives=5)
    assert str(report) == (
        "1 groups of 1 queries (0 without a relevant document); 1 relevant; non-relevant: 0 judged, 5 mined, 0 random; "
        "0 short groups; candidates dropped: relevant 1"
    )


def test_bm25_ranks_and_scores_alike() -> None:
    bm25 = Bm25(collection().corpus)
    seen: list[int] = []
    run = bm25.search({"q": "the red foxes", "none": "zebra", "stop": "the of"}, 4, seen.append)
    assert list(run["q"]) == ["rel", "fox0", "fox1", "fox2"]  # ties in corpus order
    assert run["none"] == run["stop"] == {} and seen == [1, 1, 1]
    assert bm25.scores("the red foxes", list(run["q"])).tolist() == list(run["q"].values())
    assert bm25.scores("red fox").shape == (17,) and bm25.scores("zebra").tolist() == [0.0] * 17
    with pytest.raises(DataError, match="'x' is not in the corpus"):
        bm25.scores("fox", ["x"])


def test_bm25_is_quiet() -> None:
    code = "from prorank.data.bm25 import Bm25; Bm25({'a': 'red fox'}).search({'q': 'fox'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_bm25_follows_the_formula() -> None:
    """Lucene's form: idf * tf / (tf + k1 * (1 - b + b * length / mean length))."""
    corpus = {"a": "fox fox hen", "b": "hen hen", "c": "pig"}
    idf = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * 3 / 2))
    assert Bm25(corpus).scores("fox", ["a", "b"]) == pytest.approx([expected, 0.0], rel=1e-5)


def test_bm25_of_wordless_texts() -> None:
    assert Bm25({"a": "", "b": "the"}).search({"q": "fox"}) == {"q": {}}
    with pytest.raises(DataError, match="the corpus is empty"):
        Bm25({})


def test_bm25_figures_on_real_data(data_dir: Path) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    for name, expected in (("npl_vaswani", 0.445), ("adi", 0.480), ("cosqa", 0.320)):
        real = read_beir(data_dir / name)
        run = Bm25(real.corpus).search(real.queries)
        found = dict(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], real.qrels, run))
        assert found[ir_measures.nDCG @ 10] == pytest.approx(expected, abs=6e-4), name
