"""An index on disk: saved, mapped, added to, refused for another model, and whole or absent after kill -9; `prorank index`."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prorank import Reranker
from prorank.cli.command_line import app
from prorank.engine.key_value_models import bytes_per_token
from prorank.errors import ConfigError, DataError
from prorank.index import index_folder, segment_builder
from prorank.index.document_index import Index
from prorank.index.index_folder import Manifest
from prorank.index.index_settings import key_value_model
from prorank.index.segments import Segment
from prorank.prompts.prompt import Prompt
from tests.test_cli_errors import place  # noqa: F401
from tests.tiny import save_tiny

WORDS = "bread needs flour and water while rivers run to the sea and castles stand on hills of stone".split()
LONG = " ".join(WORDS[i % len(WORDS)] for i in range(90))
DOCUMENTS = ["bread", LONG, {"id": "sea", "title": "Sea", "text": "rivers run"}, "", {"_id": "again", "text": "bread é\n"}]
MORE = [{"id": "castle", "text": "castles stand on hills"}, "water"]
PROMPT = Prompt.preset("document-first", max_length=300, chunk_length=48)
HOW = {"device": "cpu", "dtype": "fp32", "prompt": PROMPT}


@pytest.fixture(scope="module")
def reranker(tiny_llama_dir) -> Reranker:
    return Reranker(tiny_llama_dir, **HOW)


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(segment_builder, "SEGMENT_BYTES", 1 << 14)


@pytest.fixture(scope="module")
def saved(reranker, tmp_path_factory):
    """An index in a folder. Read only: tests that write make a copy."""
    folder = tmp_path_factory.mktemp("saved") / "index"
    reranker.index(DOCUMENTS).save(folder)
    return folder


@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
def test_a_saved_index_has_the_same_scores(reranker, tmp_path, storage, small_segments):
    index = reranker.index(DOCUMENTS, storage=storage)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", reranker)
    assert len(loaded.segments) > 1 and loaded.settings == index.settings
    assert loaded.documents == DOCUMENTS and loaded.ids == index.ids and loaded.nbytes == index.nbytes
    assert np.array_equal(loaded.score("what is bread"), index.score("what is bread"))
    direct = reranker.index(DOCUMENTS, folder=tmp_path / "direct", storage=storage)
    assert np.array_equal(direct.score("sea"), index.score("sea")) and direct.folder == tmp_path / "direct"


def test_keys_and_values_are_mapped_not_read(reranker, saved):
    (segment,) = Index.load(saved, reranker).segments
    maps = open("/proc/self/maps", encoding="utf-8").read() if os.path.exists("/proc/self/maps") else ""
    assert not maps or str(segment.path) in maps
    stored = segment.path.read_bytes()[segment.values_offset :][: segment.values.nbytes]
    assert stored == segment.values.numpy().tobytes()
    before = segment.path.read_bytes()
    segment.prefetch(range(2))
    segment.values[:10] = 7.0  # a private copy: the file stays as it is
    assert segment.path.read_bytes() == before


def test_a_mapped_index_outlives_its_folder(reranker, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "index")
    index = Index.load(folder, reranker)
    expected = index.score("bread")
    shutil.rmtree(folder)
    assert np.array_equal(index.score("bread"), expected)


def test_documents_are_added_on_disk(reranker, tmp_path):
    index = reranker.index(DOCUMENTS, folder=tmp_path / "index")
    index.add(MORE)
    expected = reranker.score_lists(["bread"], [[*DOCUMENTS, *MORE]])[0]
    for one in (index, Index.load(tmp_path / "index", reranker)):
        assert one.documents == [*DOCUMENTS, *MORE] and one.ids[-2:] == ["castle", "6"]
        assert one.score("bread") == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="same id 'castle'"):
        index.add(MORE[:1])


def test_an_index_that_was_changed_meanwhile_is_not_added_to(reranker, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "index")
    one, other = Index.load(folder, reranker), Index.load(folder, reranker)
    one.add(MORE)
    with pytest.raises(DataError, match="changed by another process; load it again"):
        other.add(["salt"])
    with index_folder._locked(folder), pytest.raises(DataError, match="another process is adding documents"):
        one.add(["salt"])
    one.add(["salt"])
    assert len(Index.load(folder, reranker)) == 8


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work) -> None:
    """Run `work` in a forked process, which must end by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("where", ["second segment", "after the first file", "manifest"])
def test_kill_9_leaves_no_index_or_the_previous_one(reranker, saved, tmp_path, monkeypatch, where, small_segments):
    folder = shutil.copytree(saved, tmp_path / "index")
    expected = Index.load(folder, reranker).score("bread")
    write = Segment.write

    def write_and_die(segment, path):
        write(segment, path)
        if where != "second segment" or path.name == "000002":
            die()

    with monkeypatch.context() as patched:
        if where == "manifest":
            patched.setattr(Manifest, "write", die)
        elif where == "after the first file":
            patched.setattr("prorank.index.segments.save_file", die)
        else:
            patched.setattr(Segment, "write", write_and_die)
        killed(lambda: reranker.index([*DOCUMENTS, *MORE, LONG * 2], folder=tmp_path / "new"))
        killed(lambda: Index.load(folder, reranker).add([*MORE, LONG * 2]))
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="contains no index"):
        Index.load(tmp_path / "new", reranker)
    index = Index.load(folder, reranker)
    assert index.documents == DOCUMENTS and np.array_equal(index.score("bread"), expected)
    index.add(MORE)
    names = {path.stem for path in folder.iterdir() if path.suffix == ".safetensors"}
    assert names == {f"{i:06d}" for i in range(len(index.segments))}
    assert Index.load(folder, reranker).documents == [*DOCUMENTS, *MORE]
    reranker.index(DOCUMENTS, folder=tmp_path / "new")


def test_a_failed_addition_leaves_the_index_as_it_was(reranker, saved, tmp_path, monkeypatch):
    folder = shutil.copytree(saved, tmp_path / "index")
    before = sorted(path.name for path in folder.iterdir())
    index = Index.load(folder, reranker)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("prorank.index.segments.save_file", full)
        with pytest.raises(OSError, match="No space left on device"):
            index.add(MORE)
    assert [name for name in sorted(path.name for path in folder.iterdir()) if name != ".lock"] == before
    index.add(MORE)
    assert len(index) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "bf16"}, "made with dtype float32, but the model has bfloat16; load the model with that dtype"),
        ({"prompt": Prompt.preset("plain")}, "made with other prompt than the model's"),
        ({"long_documents": "truncate"}, "made with truncation 32 chunks"),
        ({"model": "other"}, "made with other weights than the model's; load the model it was made with"),
        ({"prompt": Prompt.preset("echo")}, "needs a prompt with order: document-first"),
    ],
)
def test_another_model_prompt_dtype_or_truncation_is_refused(saved, tiny_llama_dir, tmp_path, change, message):
    model = save_tiny(tmp_path / "other", "llama", seed=1) if change.pop("model", "") else tiny_llama_dir
    with pytest.raises(ConfigError, match=message):
        Index.load(saved, Reranker(model, **HOW | change))


def test_damaged_folders_are_refused(reranker, saved, tmp_path):
    def damaged(name):
        return shutil.copytree(saved, tmp_path / name)

    with pytest.raises(DataError, match="contains no index"):
        Index.load(tmp_path, reranker)
    folder = damaged("missing")
    (folder / "000000.safetensors").unlink()
    with pytest.raises(DataError, match="000000.safetensors: missing or damaged"):
        Index.load(folder, reranker)
    folder = damaged("short")
    with open(folder / "000000.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match="000000.safetensors: missing or damaged"):
        Index.load(folder, reranker)
    folder = damaged("lines")
    (folder / "000000.jsonl").write_text('"bread"\n')
    with pytest.raises(DataError, match="its tables do not fit its documents"):
        Index.load(folder, reranker)
    folder = damaged("manifest")
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match="index.json"):
        Index.load(folder, reranker)
    values = json.loads((saved / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(values | {"format": 99}))
    with pytest.raises(DataError, match="format 99 of another version"):
        Index.load(folder, reranker)
    (folder / "index.json").write_text(json.dumps(values | {"segments": [4]}))
    with pytest.raises(DataError, match="has not the 4 documents"):
        Index.load(folder, reranker)


def test_folders_with_other_contents_are_not_replaced(reranker, saved, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        reranker.index(DOCUMENTS, folder=tmp_path)
    with pytest.raises(ConfigError, match="contains an index already"):
        reranker.index(DOCUMENTS).save(saved)
    with pytest.raises(DataError, match="document 1 cannot be stored as JSON"):
        reranker.index(["a", {"text": "b", "date": object()}], folder=tmp_path / "new")
    with pytest.raises(DataError, match="document 0 cannot be stored as JSON"):
        reranker.index([{"text": "b", "name": "\ud800"}], folder=tmp_path / "new")
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.fixture(scope="module")
def own_prompt(tmp_path_factory):
    """A checkpoint whose own prompt has the document first."""
    folder = save_tiny(tmp_path_factory.mktemp("tiny") / "document-first", "llama")
    PROMPT.save(folder)
    return folder


def prorank(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_the_commands_index_add_and_rank(own_prompt, tmp_path):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS if document))
    (tmp_path / "more.txt").write_text("salt\npepper\n")
    made = prorank(
        "index", tmp_path / "docs.jsonl", tmp_path / "index", "--model", own_prompt, "--dtype", "fp32", "--device", "cpu"
    )
    assert "4 documents, " in made.stdout and " a document" in made.stdout
    added = prorank("index", tmp_path / "more.txt", tmp_path / "index", "--append")  # model and dtype of the index
    assert "2 documents added, 6 documents" in added.stdout
    lines = prorank("rerank", "--index", tmp_path / "index", "--query", "bread", "--json").stdout.splitlines()
    hits = [json.loads(line) for line in lines]
    reranker = Reranker(own_prompt, device="cpu", dtype="fp32")
    expected = reranker.rank("bread", [*filter(None, DOCUMENTS), "salt", "pepper"])
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert [hit["index"] for hit in hits] == [hit.index for hit in expected]
    two = prorank("rerank", "--index", tmp_path / "index", "bread", "--ids", "sea, 4", "--json", "--top-k", 2).stdout.splitlines()
    assert {json.loads(line)["index"] for line in two} == {2, 4}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "docs.txt", "index", "--storage", "int8", "--append"], "--storage is for a new index"),
        (["index", "docs.txt", "new", "--append"], "new: contains no index"),
        (["index", "docs.txt", "index"], "index: contains an index already"),
        (["index", "docs.txt", "new", "--storage", "int4"], "storage 'int4' is not known"),
        (["index", "docs.txt", "new", "--query-room", "0"], "--query-room must be at least 1"),
        (["index", "docs.txt", "new", "--prompt", "echo"], "needs a prompt with order: document-first"),
        (["rerank", "--index", "index"], "give DOCUMENTS"),
        (["rerank", "--index", "new", "bread"], "new: contains no index"),
        (["rerank", "docs.txt", "bread", "--index", "index"], "omit 'docs.txt' or --index"),
        (["rerank", "docs.txt", "bread", "--ids", "1"], "--ids needs --index"),
        (["rerank", "--index", "index", "bread", "--instruction", "x"], "--instruction does not apply to --index"),
        (["rerank", "--index", "index", "bread", "--ids", "nine"], "id 'nine' is not in the index"),
        (["rerank", "--index", "index", "bread", "--prompt", "plain"], "other prompt than the model's"),
    ],
)
def test_bad_input_of_the_commands_ends_in_one_line(own_prompt, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.txt").write_text("bread\nwater\n")
    Reranker(own_prompt, device="cpu", dtype="fp32").index(["bread", "water"]).save("index")
    model = [] if "--append" in words else ["--model", own_prompt]
    result = CliRunner().invoke(app, [str(word) for word in [*words, *model]])
    assert isinstance(result.exception, DataError | ConfigError) and message in str(result.exception)
    assert "\n" not in str(result.exception) and sorted(os.listdir(tmp_path)) == ["docs.txt", "index"]


def test_the_benchmark_compares_an_index_with_plain_ranking(script, own_prompt, capsys):
    from benchmarks.speed import index

    words = "--lists toy --limit 2 --documents 5 --dtype fp32 --threads 1".split()
    script(index, "--model", own_prompt, *words)
    *table, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)["index"]["toy"]
    plain, again, rounded = (found[arm] for arm in (index.PLAIN, f"{index.AGAIN} (model)", f"{index.AGAIN} (int8)"))
    assert again["difference"] < 1e-4 and again["ndcg@10"] == plain["ndcg@10"]
    size = bytes_per_token(key_value_model(Reranker(own_prompt, device="cpu", dtype="fp32")), torch.float32)
    assert again["bytes"] == pytest.approx(again["tokens"] * size) and rounded["bytes"] < again["bytes"]
    assert [row.split("  ")[0] for row in table[-5:]] == list(found)
