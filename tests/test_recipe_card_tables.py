"""`recipes/default/card_tables.py`: the model card's tables stand as the files have them."""

import json
from pathlib import Path

import pytest

from prorank.evaluate import Scorer, evaluate
from recipes.default import card_tables
from tests.evaluate_toy import write_beir
from tests.tiny import write_jsonl


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two files of lists of two sets, one source, and a report of two systems on the toy collection."""
    write_jsonl(tmp_path / "train.jsonl", [{"query_id": name, "query": "q"} for name in ("cosqa/1", "own/1", "own/2")])
    write_jsonl(tmp_path / "tags.jsonl", [{"query_id": name, "query": "q"} for name in ("own/2", "own/3")])  # one of them again
    (tmp_path / "texts" / "own").mkdir(parents=True)
    (tmp_path / "texts" / "own" / "source.json").write_text(json.dumps({"name": "own", "licence": "CC0"}))
    systems = [Scorer("some/model", _by(1)), Scorer("default/score", _by(-1))]
    evaluate([write_beir(tmp_path / "toy")], systems, out=tmp_path / "report")
    return tmp_path


def _by(sign: int):
    return lambda queries, documents, progress=None: [[sign * len(text) for text in row] for row in documents]


def words(place: Path, *more: str) -> list[str]:
    lists = [place / "train.jsonl", place / "tags.jsonl"]
    given = [*lists, "--texts", place / "texts", "--reports", place / "report", "--out", place / "card.json", *more]
    return [str(word) for word in given]


def test_the_tables_are_those_of_the_files(place, capsys):
    card_tables.main(words(place, "--limit", "One seed."))
    card = json.loads((place / "card.json").read_text())
    assert card["data"] == [{"set": "cosqa", "licence": "MIT", "lists": 1}, {"set": "own", "licence": "CC0", "lists": 3}]
    rows = json.loads((place / "report" / "results.json").read_text())["rows"]
    means = [f"{row['measures']['nDCG@10']:.4f}" for row in rows if row["kind"] != "answers only"]
    (figures,) = card["figures"]
    assert [figures[name] for name in ("BM25", "some", "this model")] == means
    assert figures["queries"] == 3 and 0 < float(figures["p, BM25"]) <= 1 and 0 < float(figures["p, some"]) <= 1
    assert card["limits"] == ["One seed."] and any(line.startswith("prorank train") for line in card["commands"])
    assert "2 sets, 1 lists measured" in capsys.readouterr().out


@pytest.mark.parametrize("amiss", ["licence", "report", "model"])
def test_what_is_amiss_is_told_and_nothing_written(place, amiss, capsys):
    if amiss == "licence":
        (place / "texts" / "own" / "source.json").write_text(json.dumps({"name": "other", "licence": "CC0"}))
    elif amiss == "report":
        (place / "report" / "results.json").unlink()
    else:
        evaluate([place / "toy"], out=place / "report")
    with pytest.raises(SystemExit) as ended:
        card_tables.main(words(place))
    said = {"licence": "licence of set 'own' is not known", "report": "no results.json", "model": "without a model"}[amiss]
    assert ended.value.code == 2 and said in capsys.readouterr().err and not (place / "card.json").exists()
