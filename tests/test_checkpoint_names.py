"""Resolving checkpoint names: missing folders, hub ids, prompts of published rerankers, and code of checkpoints."""

import json
import logging
import shutil
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.adapt.adaptation import scores_of
from prorank.checkpoints import known
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.names import may_be_hub_id
from prorank.checkpoints.resolve import prompt_of, resolve
from prorank.cli.command_line import app
from prorank.data.examples import Group
from prorank.errors import ModelError
from prorank.prompts.prompt import Prompt
from prorank.prompts.published import MXBAI_TASK, QWEN3_SYSTEM
from prorank.rank.bi_encoder import bi_encoder
from prorank.reranker import Reranker
from prorank.train.teacher_scores import check_teacher
from tests.tiny import save_adapter, save_tiny, write_jsonl

CPU = torch.device("cpu")
MODEL = {"AutoModelForCausalLM": "own.OwnForCausalLM"}
MXBAI = "mixedbread-ai/mxbai-rerank-base-v2"
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "prorank_own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(known, "logged", set())


@pytest.fixture
def offline(monkeypatch):
    """Any call of the network fails the test."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a network call"))
    monkeypatch.setattr("prorank.checkpoints.resolve.from_hub", lambda *_: pytest.fail("a hub was asked"))


@pytest.fixture
def here(tmp_path, monkeypatch, offline) -> Path:
    """A working folder with runs/demo/score and own/thing."""
    monkeypatch.chdir(tmp_path)
    for path in ("runs/demo/score", "runs/recipe", "own/thing"):
        Path(path).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "name, hint",
    [
        ("runs/dmo", "did you mean 'runs/demo'?"),
        ("runs/Demo2", "did you mean 'runs/demo'?"),
        ("runs/dmo/score", "did you mean 'runs/demo/score'?"),
        ("run/demo/score", "did you mean 'runs/demo/score'?"),
        ("runs/x", "runs holds demo, recipe"),
        ("own/thingy", "did you mean 'own/thing'?"),
        ("models/none", "no such folder or file"),
        ("./own/none", "no such folder or file"),
        ("own/none/", "no such folder or file"),
        ("", "no such folder or file"),
        ("x" * 5000, "no such folder or file"),
        ("a\0b", "no such folder or file"),
    ],
)
def test_a_missing_folder_is_not_looked_up_on_the_hub(here, name, hint):
    """Not every name with a slash is a hub id."""
    with pytest.raises(ModelError) as error:
        resolve(name)
    assert "no such folder or file" in str(error.value) and hint in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("verb", ["rerank", "evaluate", "export", "serve", "calibrate", "adapt", "train"])
def test_every_verb_reports_a_missing_folder(here, verb, toy_file):
    """Also of `base=runs/…`."""
    Path("docs.txt").write_text("bread\n")
    Path("x.yaml").write_text(f"stage: score\nbase: runs/dmo\ndata: {toy_file}\nout: out\nsteps: 1\ndevice: cpu\n")
    words = {
        "rerank": ["docs.txt", "-q", "x", "-m", "runs/dmo"], "evaluate": ["toy", "-m", "runs/dmo"], "export": ["runs/dmo", "out"],
        "serve": ["-m", "runs/dmo", "--port", "0"], "calibrate": ["--data", str(toy_file), "runs/dmo"],
        "adapt": ["--data", str(toy_file), "-m", "runs/dmo"], "train": ["x.yaml"],
    }  # fmt: skip
    error = CliRunner().invoke(app, [verb, *words[verb]]).exception
    assert isinstance(error, ModelError) and "did you mean 'runs/demo'?" in str(error)


def test_missing_teachers_are_reported(here):
    """They are checkpoints and folders like others."""
    with pytest.raises(ModelError, match="did you mean 'runs/demo'"):
        check_teacher([], "reranker:runs/dmo")
    with pytest.raises(ModelError, match="no such folder; did you mean 'runs/demo'"):
        bi_encoder("bi-encoder:runs/dmo")


def test_a_name_is_a_hub_id_only_if_no_local_folder_is_meant(here):
    assert may_be_hub_id("Qwen/Qwen3-Reranker-0.6B") and may_be_hub_id("a/b") and may_be_hub_id("0x/y_z.1")
    others = ["runs/a", "Runs/a", "own/x", "a/b/c", "./a/b", "~/a", "/a", "a/", "/", "a b/c", "a/b c", ""]
    assert not any(map(may_be_hub_id, others))


@given(st.text(max_size=12))
def test_a_hub_id_has_one_slash_and_plain_letters(text):
    assert not may_be_hub_id(text) or (text.count("/") == 1 and not text.startswith((".", "/", "~")) and " " not in text)


def named(folder: Path, how: str) -> Path:
    """A folder in which one thing says that it is mxbai-rerank-base-v2."""
    names = {"folder": MXBAI.split("/")[1], "cache": "models--mixedbread-ai--mxbai-rerank-base-v2/snapshots/0a1b"}
    made = save_tiny(folder / names.get(how, "mine"), "qwen2")
    cards = {
        "card": f"---\nlicense: mit\nbase_model:\n- {MXBAI}\ntags: [x]\n---\n# mine\n", "line": f"---\nbase_model: {MXBAI}\n---\n",
        "title": "# 🍞 mxbai-rerank-base-v2\n",
    }  # fmt: skip
    if how in cards:
        (made / "README.md").write_text(cards[how], encoding="utf-8")
    if how == "config":
        path = made / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"_name_or_path": f"/somewhere/{names['folder']}"}))
    if how == "template":
        (made / "chat_template.jinja").write_text("{{ messages[0].content }}" + MXBAI_TASK)
    return made


@pytest.mark.parametrize("how", ["folder", "cache", "card", "line", "title", "config", "template"])
def test_a_published_reranker_gets_its_own_prompt(tmp_path, how, caplog, offline):
    """It is recognised by name, settings, card or chat template, and logged in one line."""
    folder = named(tmp_path, how)
    with caplog.at_level(logging.INFO, logger="prorank"):
        assert prompt_of(resolve(folder)) == prompt_of(resolve(folder)) == Prompt.preset("mxbai")
    assert caplog.text.count("using preset mxbai") == 1
    assert prompt_of(resolve(folder), "echo") == Prompt.preset("mxbai")  # a fallback is for those without a prompt
    Prompt.preset("echo").save(folder)
    assert prompt_of(resolve(folder)) == Prompt.preset("echo")


@pytest.mark.parametrize(
    "name, preset",
    [
        ("Qwen3-Reranker-0.6B", "qwen3-reranker"), ("qwen3_reranker_8b", "qwen3-reranker"), ("mxbai-rerank-large-v2", "mxbai"),
        ("Rank-R1-3B-v0.2", "rank-r1"), ("Rerank-R0", "rerank-r0"),
    ],
)  # fmt: skip
def test_names_of_published_rerankers(tmp_path, name, preset):
    assert prompt_of(resolve(save_tiny(tmp_path / name, "qwen3"))) == Prompt.preset(preset)


def test_scores_of_a_known_reranker_are_those_of_its_preset(tmp_path):
    """In `Reranker`, and where adapt measures it."""
    folder = save_tiny(tmp_path / "mxbai-rerank-base-v2", "qwen2")
    pairs = [("garden", "we saw the garden today"), ("garden", "bread")]
    want = Reranker(folder, device="cpu", dtype="fp32", prompt="mxbai").score(pairs)
    assert Reranker(folder, device="cpu", dtype="fp32").score(pairs).tolist() == want.tolist()
    assert Reranker(folder, device="cpu", dtype="fp32", prompt="prorank").score(pairs).tolist() != want.tolist()
    rows = scores_of(folder, [Group("garden", ("bread", "a garden"), (0.0, 1.0))], "echo")
    shown = Reranker(folder, device="cpu", prompt="mxbai").score([("garden", "bread"), ("garden", "a garden")])
    assert rows[0].tolist() == pytest.approx(shown.tolist(), abs=1e-4)


FOREIGN = ["bge-reranker-v2-gemma", "jina-reranker-v3", "zerank-1-small", "rank1-7b", "rank_zephyr_7b", "RankLLaMA", "my-re-ranker"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_reranker_with_an_unknown_prompt_is_refused(tmp_path, name):
    """Unless the caller passes a prompt."""
    folder = save_tiny(tmp_path / name)
    with pytest.raises(ModelError, match="a reranker .* without prompt.json, .*--prompt.*qwen3-reranker") as error:
        Reranker(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert Reranker(folder, device="cpu", prompt="prorank").prompt.name == "prorank"
    assert prompt_of(resolve(folder), "echo").name == "echo"  # a base of a training


def test_a_card_that_says_reranker_counts(tmp_path):
    folder = save_tiny(tmp_path / "m")
    (folder / "README.md").write_text("---\npipeline_tag: text-ranking\n---\n# m\n")
    with pytest.raises(ModelError, match="text-ranking"):
        prompt_of(resolve(folder))


def test_an_adapter_is_known_by_its_base(tmp_path):
    base = save_tiny(tmp_path / "Qwen3-Reranker-0.6B", "qwen3")
    adapter = save_adapter(tmp_path / "tuned", base)
    (adapter / "prompt.json").unlink()
    (adapter / "chat_template.jinja").unlink(missing_ok=True)
    assert prompt_of(resolve(adapter)) == Prompt.preset("qwen3-reranker")


def test_a_base_model_is_ranked_with_a_warning(tmp_path, caplog):
    """Zero-shot scores are unchanged, and one line names the prompt."""
    folder = save_tiny(tmp_path / "smol")
    with caplog.at_level(logging.INFO, logger="prorank"):
        for _ in range(2):
            assert Reranker(folder, device="cpu").prompt.name == "prorank"
        prompt_of(resolve(folder), "echo")
        Reranker(folder, device="cpu", prompt="echo")
    assert caplog.text.count("has no prompt of its own; using preset prorank") == 1 and len(caplog.records) == 1


def test_similar_names_are_not_recognised(tmp_path):
    for name in ("prorank-smollm2", "frankenmerge", "lora-rank-16", "drank1"):
        assert prompt_of(resolve(save_tiny(tmp_path / name))).name == "prorank"
    assert QWEN3_SYSTEM.startswith(known.PHRASE_OF[1][0])


@pytest.fixture
def own(tmp_path) -> Path:
    """A checkpoint of an architecture and a tokenizer that only its own Python file knows."""
    folder = save_tiny(tmp_path / "own")
    (folder / "own.py").write_text(CODE)
    for name, more in (
        ("config.json", {"model_type": "prorank_own", "auto_map": {"AutoConfig": "own.OwnConfig", **MODEL}}),
        ("tokenizer_config.json", {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}),
    ):  # fmt: skip
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | more))
    return folder


def test_code_of_a_checkpoint_runs_only_with_trust_remote_code(own, tmp_path, monkeypatch):
    """Of tokenizer and model, from Python and from the command line."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ModelError, match="trust_remote_code") as error:
        Reranker(own, device="cpu")
    assert "\n" not in str(error.value)
    assert type(load_tokenizer(resolve(own, trust_remote_code=True))).__name__ == "OwnTokenizer"
    assert type(load_model(resolve(own, trust_remote_code=True), torch.float32, CPU)).__name__ == "OwnForCausalLM"
    assert len(Reranker(own, device="cpu", trust_remote_code=True).rank("garden", ["bread", "a garden"])) == 2
    (tmp_path / "docs.txt").write_text("bread\n")
    words = ["rerank", str(tmp_path / "docs.txt"), "--query", "garden", "--model", str(own), "--device", "cpu"]
    assert isinstance(CliRunner().invoke(app, words).exception, ModelError)
    assert CliRunner().invoke(app, [*words, "--trust-remote-code"]).exit_code == 0


def test_python_files_of_a_hub_repository_are_downloaded_with_trust_remote_code(own, tmp_path, monkeypatch):
    """Without the files, the flag would have no effect."""
    import huggingface_hub

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        chosen = [path for path in own.iterdir() if any(path.match(pattern) for pattern in allow_patterns)]
        folder = tmp_path / f"hub-{len(chosen)}"
        folder.mkdir(exist_ok=True)
        for path in chosen:
            shutil.copy(path, folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert not list(resolve("someone/own").path.glob("*.py"))
    assert (resolve("someone/own", trust_remote_code=True).path / "own.py").is_file()


def test_training_lists_are_not_asked_for_a_prompt(tmp_path, toy_file, caplog):
    """The settings contain the prompt of a training's base, so there is no warning."""
    from prorank.train.run import train
    from prorank.train.settings.stage_settings import make_settings

    rows = [json.loads(line) for line in toy_file.read_text().splitlines()][:12]
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    base = save_tiny(tmp_path / "base")
    given = {"stage": "score", "base": str(base), "data": str(data), "out": str(tmp_path / "run"), "steps": 1, "dev_queries": 0}
    with caplog.at_level(logging.WARNING, logger="prorank"):
        train(make_settings(given | {"dtype": "fp32", "device": "cpu", "save_every": 0}))
    assert "no prompt of its own" not in caplog.text
