"""The help of the command line: every verb has a panel, every option a text and a panel; renamed words are gone."""

import re

import pytest
import typer
from typer.core import TyperArgument, TyperGroup
from typer.testing import CliRunner

from prorank.cli.command_line import VERBS, app
from prorank.cli.options import MAIN
from prorank.errors import ConfigError
from prorank.train.settings.stage_settings import STAGE_SETTINGS, list_keys

LARGEST_PANEL = 12  # options
ROOT = typer.main.get_command(app)


def commands(group=ROOT, path: tuple[str, ...] = ()):
    """(path, command) of the whole tree."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))


TREE = dict(commands())
PARAMETERS = [(path, parameter) for path, command in [((), ROOT), *TREE.items()] for parameter in command.params]


def spelled(case) -> str:
    path, parameter = case
    return " ".join((*path, parameter.opts[0]))


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_every_verb_has_a_panel_and_a_sentence(path):
    command = TREE[path]
    assert command.rich_help_panel in VERBS
    first = command.help.split("\n\n")[0]
    assert first[0].isupper() and first.endswith(".") and "\n" not in first


@pytest.mark.parametrize("case", PARAMETERS, ids=spelled)
def test_every_option_has_a_help_text_and_a_panel(case):
    _, parameter = case
    text = parameter.help or ""
    assert len(text) > 7 and re.match(r"[A-Za-z]", text) and text.endswith((".", ")")), text
    assert isinstance(parameter, TyperArgument) or parameter.rich_help_panel


@pytest.mark.parametrize("case", PARAMETERS, ids=spelled)
def test_every_option_says_its_default(case):
    """Typer shows the default where there is one; else the text says what happens without the option, or the option is a task."""
    path, parameter = case
    if isinstance(parameter, TyperArgument) or parameter.required or parameter.default is not None or parameter.is_flag:
        return
    tasks = {
        "query",
        "queries",
        "run",
        "dataset",
        "out",
        "server",
        "clicks",
        "qrels",
        "exclude",
        "base",
        "data",
        "endpoint",
        "model",
    }
    assert "Default:" in parameter.help or parameter.name in tasks


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_many_options_are_grouped(path):
    panels = [p.rich_help_panel for p in TREE[path].params if not isinstance(p, TyperArgument)]
    assert all(panels.count(panel) <= LARGEST_PANEL for panel in panels)
    assert len(panels) <= LARGEST_PANEL or len(set(panels)) > 2


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("path", [(), *TREE], ids=" ".join)
def test_help_is_printed_in_full(path, width, monkeypatch):
    """Nothing is truncated: the help contains the long name of every option, in its panel."""
    monkeypatch.setenv("COLUMNS", width)
    done = CliRunner().invoke(app, [*path, "--help"], catch_exceptions=False)
    assert done.exit_code == 0 and max(map(len, done.output.splitlines())) <= int(width)
    command = TREE.get(path, ROOT)
    for parameter in command.params:
        if not isinstance(parameter, TyperArgument):
            assert all(name in done.output for name in parameter.opts) and (parameter.rich_help_panel or MAIN) in done.output
    for name, verb in getattr(command, "commands", {}).items():
        assert f" {name} " in done.output and verb.rich_help_panel in done.output


def test_verbs_are_in_the_panels_of_their_task():
    shown = {panel: list(verbs) for panel, verbs in VERBS.items()}
    assert shown["Rank"] == ["rerank", "score-pairs", "search", "index", "serve", "evaluate"]
    assert shown["Your data"] == ["mine", "adapt", "calibrate"]
    assert list(ROOT.commands) == [name for verbs in shown.values() for name in verbs]


def test_words_that_were_replaced_are_gone():
    assert not {"pairs", "convert", "reward"} & set(ROOT.commands)
    old = "each at-once tries again pool fresh likelihood max-waiting max-held-bytes max-seconds".split()
    names = {name for _, parameter in PARAMETERS for name in parameter.opts}
    assert not {f"--{word}" for word in old} & names


@pytest.mark.parametrize("verb", ["rerank", "search", "evaluate"])
def test_top_n_is_top_k(verb):
    names = {name: p for p in ROOT.commands[verb].params for name in p.opts}
    assert names["--top-k"] is names["--top-n"]


@pytest.mark.parametrize("stage", STAGE_SETTINGS)
def test_keys_of_a_stage_are_listed_with_types_and_defaults(stage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    keys = {key.name: key for key in list_keys(stage)}
    assert keys["learning_rate"].type == "float" and keys["learning_rate"].default == STAGE_SETTINGS[stage]().learning_rate
    assert "Budget" in keys["minutes"].description and keys["lora.r"].default == 16
    done = CliRunner().invoke(app, ["train", "--list-keys", stage], catch_exceptions=False)
    assert done.exit_code == 0 and all(re.search(rf"^{re.escape(name)} ", done.output, re.M) for name in keys)


def test_keys_of_all_stages_are_listed_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    done = CliRunner().invoke(app, ["train", "--list-keys"], catch_exceptions=False)
    titles = re.findall(r"^(every stage|stage \w+)", done.output, re.M)
    assert titles == ["every stage", *(f"stage {name}" for name in STAGE_SETTINGS)]
    assert len(re.findall(r"^max_length ", done.output, re.M)) == 1 and len(re.findall(r"^gain ", done.output, re.M)) > 1


def test_keys_of_an_unknown_stage():
    with pytest.raises(ConfigError, match=r"'scor' is not a stage; did you mean 'score'\?"):
        list_keys("scor")
