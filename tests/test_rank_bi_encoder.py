"""`bi-encoder:FOLDER`: cosines of a sentence-transformers model, as a system of `prorank evaluate` and as a teacher."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from prorank.cli import app
from prorank.data.examples import Group
from prorank.errors import ModelError
from prorank.rank.bi_encoder import bi_encoder
from prorank.train.teacher import with_teacher
from tests.evaluate_toy import write_beir

QUERIES, DOCUMENTS = ["red apples", "a river"], [["apples are red", "rivers flow", "apples are red"], ["rivers flow"]]


@pytest.fixture(scope="module")
def encoder(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sentence-transformers' own making, with mean pooling over a tiny random model."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    SentenceTransformer(str(tiny_llama_dir), device="cpu").save(str(folder))
    return folder


def test_scores_are_the_librarys_cosines(encoder):
    from sentence_transformers import SentenceTransformer

    heard = []
    rows = bi_encoder(f"bi-encoder:{encoder}", "cpu")(QUERIES, DOCUMENTS, heard.append)
    model = SentenceTransformer(str(encoder), device="cpu")
    for query, documents, row in zip(QUERIES, DOCUMENTS, rows):
        np.testing.assert_allclose(row, model.similarity(model.encode([query]), model.encode(documents))[0], atol=1e-5)
    assert heard == [3, 1] and rows[0][0] == rows[0][2] and rows[0].dtype == np.float32


def test_a_folder_that_is_none_is_told_before_any_work(tmp_path):
    with pytest.raises(ModelError, match="holds no sentence-transformers model .*modules.json"):
        bi_encoder(f"bi-encoder:{tmp_path}")


def test_evaluate_measures_it_beside_checkpoints(encoder, tiny_llama_dir, tmp_path):
    names = [f"bi-encoder:{encoder}", str(tiny_llama_dir)]
    args = ["evaluate", str(write_beir(tmp_path / "toy")), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, args + [word for name in names for word in ("--model", name)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "out" / "results.json").read_text())["values"]["toy"]
    assert [n for n in values if "0/1" not in n] == ["BM25", "/".join(encoder.parts[-2:]), "/".join(tiny_llama_dir.parts[-2:])]


def test_as_a_teacher_it_gives_the_same_scores(encoder, tmp_path):
    groups = [Group(q, tuple(d), tuple(0.0 for _ in d)) for q, d in zip(QUERIES, DOCUMENTS)]
    taught = with_teacher(groups, f"bi-encoder:{encoder}", tmp_path, None, None, None)
    for group, row in zip(taught, bi_encoder(f"bi-encoder:{encoder}")(QUERIES, DOCUMENTS)):
        np.testing.assert_allclose(group.teacher, row, atol=1e-6)
