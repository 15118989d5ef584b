"""Methods of lists with checkpoints that were not trained for them: refused, or used with a warning.

An order from such a checkpoint is meaningless.
"""

import logging

import pytest

from prorank.checkpoints.saving import save_checkpoint
from prorank.cli import command_line as cli
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.rank.methods import METHODS, choose_prompt
from prorank.reranker import Reranker
from tests.test_reranker import DOCUMENTS, QUERY
from tests.tiny import byte_tokenizer, tiny_llama

LISTS = ("setwise", "listwise")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that gives a checkpoint saved with a preset."""
    root, tokenizer = tmp_path_factory.mktemp("trained"), byte_tokenizer("smollm")

    def made(preset: str):
        prompt = Prompt.preset(preset)
        bound = prompt.bind_list(tokenizer) if prompt.lists else prompt.bind(tokenizer)
        return root / preset if (root / preset).exists() else save_checkpoint(root / preset, tiny_llama(tokenizer), bound)

    return made


@pytest.mark.parametrize("preset", ["prorank", "echo", "document-first", "rerank-r0", "mxbai"])
@pytest.mark.parametrize("method", LISTS)
def test_a_checkpoint_trained_on_single_documents_is_refused(method, preset, trained, monkeypatch):
    """Before its weights are read."""
    monkeypatch.setattr("prorank.rank.load_reranker.load_ranking_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ConfigError) as caught:
        Reranker(trained(preset), method=method)
    kind = Prompt.preset(preset).kind
    assert f"was trained on single documents (its prompt is of kind {kind})" in str(caught.value)
    assert "prompt='setwise'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("method", LISTS)
def test_a_prompt_that_is_asked_for_is_tried_with_a_warning(method, trained, caplog):
    with caplog.at_level(logging.WARNING, "prorank"):
        hits = Reranker(trained("prorank"), dtype="fp32", method=method, prompt="setwise").rank(QUERY, DOCUMENTS)
    assert len(hits) == len(DOCUMENTS)
    assert "was not trained with prompts of kind setwise; its order of several documents may be poor" in caplog.text


@pytest.mark.parametrize("method", LISTS)
def test_a_base_model_is_tried_with_a_warning(method, tiny_llama_dir, caplog):
    with caplog.at_level(logging.WARNING, "prorank"):
        assert len(Reranker(tiny_llama_dir, dtype="fp32", method=method).rank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
    assert caplog.text.count("was not trained with prompts of kind setwise") == 1


@pytest.mark.parametrize("preset", ["setwise", "setwise-echo"])
@pytest.mark.parametrize("method", LISTS)
def test_a_checkpoint_trained_for_lists_needs_no_warning(method, preset, trained, caplog):
    with caplog.at_level(logging.WARNING, "prorank"):
        assert Reranker(trained(preset), dtype="fp32", method=method).prompt.name == preset
    assert "was not trained" not in caplog.text


@pytest.mark.parametrize(
    "own, given, warned",
    [
        ("setwise", "rank-r1", "thinking"), ("rank-r1", "setwise", "setwise"), ("listwise", "setwise", "setwise"),
        ("rank-r1", None, None), ("listwise", None, None), ("setwise", "setwise-echo", None), (None, "rank-r1", "thinking"),
    ],
)  # fmt: skip
def test_another_kind_of_prompt_than_in_training_warns(own, given, warned, caplog):
    """Another kind of prompt than the one that was trained with."""
    saved = Prompt.preset(own) if own else None
    with caplog.at_level(logging.WARNING, "prorank"):
        choose_prompt(METHODS["setwise"](), given, saved or Prompt(), "runs/x", saved)
    assert caplog.text.count(f"runs/x was not trained with prompts of kind {warned}") == (warned is not None)


def test_the_command_refuses_it_in_one_line(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "docs.txt").write_text("the garden\nthe river\n")
    words = ["rerank", tmp_path / "docs.txt", "-q", "garden", "--model", trained("prorank"), "--method", "listwise"]
    monkeypatch.setattr("sys.argv", ["prorank", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and len(said.err.strip().splitlines()) == 1
    assert "was trained on single documents" in said.err
