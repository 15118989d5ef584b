"""README and docs against the code: verbs, options, settings, links, commands and snippets.

Every `prorank …` line in a bash block is parsed by the command line itself, so an example cannot outlive its option.
"""

import re
import shlex
import shutil
import subprocess
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
import yaml
from transformers import AutoTokenizer

import prorank
from prorank.checkpoints.saving import save_checkpoint
from prorank.cli.command_line import app
from prorank.export.classifier import export
from prorank.prompts.prompt import PRESETS, Prompt
from prorank.train.objectives.ranking_losses import LOSSES
from prorank.train.settings.stage_settings import Lora, Order, Reason, Score, Settings, Sft, Warmup, load_settings
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama, tiny_qwen2, toy_lists, write_jsonl
from tests.toy_data import write_collection

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
# Folders of one machine, and hosts that serve packages or models; written so that this file does not match.
MACHINE = re.compile(r"(?<![\w.}])/(?:(?:work|tmp|root|farm|mnt|Users)/\w|home/(?!me/)\w)")
HOSTS = re.compile(r"pypi[.]org|pythonhosted[.]org|huggingface[.]co\b|hf[.]co\b|(?:index-url|trusted-host)\b")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(kind: str) -> list[tuple[str, str]]:
    """(page, text) of the fenced blocks of a kind."""
    return [(shown(page), text) for page in PAGES for k, text in BLOCK.findall(page.read_text(encoding="utf-8")) if k == kind]


def examples() -> list[tuple[str, list[str]]]:
    """(page, words after `prorank`) of every command in bash blocks and in the heads of recipes."""
    lines = [(page, line) for page, text in blocks("bash") for line in text.splitlines()]
    for recipe in sorted((ROOT / "configs").rglob("*.yaml")):
        head = recipe.read_text(encoding="utf-8").splitlines()
        lines += [(shown(recipe), line[1:]) for line in head if line.startswith("#     ")]
    words = [(page, shlex.split(line.split("|")[-1], comments=True)) for page, line in lines]
    return [(page, some[1:]) for page, some in words if some[:1] == ["prorank"]]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_shows_every_verb_and_docs_name_no_other():
    assert {words[0] for name, words in examples() if name == "README.md"} == set(COMMANDS)
    said = {verb for p in PAGES for verb in re.findall(r"`prorank ([a-z][a-z-]*)", p.read_text(encoding="utf-8"))}
    assert said <= set(COMMANDS)


@pytest.mark.parametrize("name, words", examples(), ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]))
def test_examples_are_what_the_command_line_takes(name, words, monkeypatch):
    context = COMMANDS[words[0]].make_context(words[0], list(words[1:]))
    if words[0] == "train":
        monkeypatch.chdir(ROOT)
        load_settings(context.params["config"], context.params["overrides"])


def test_every_option_of_evaluate_is_explained():
    told = set(re.findall(r"`(--[\w-]+)", page("docs/evaluation.md")))
    options = {name for p in COMMANDS["evaluate"].params for name in p.opts if name.startswith("--")} - {"--help"}
    assert options <= told


def tables(text: str) -> dict[str, dict[str, str]]:
    """Settings tables of docs/training.md: heading -> key -> stated default."""
    found = {}
    for part in re.split(r"^###? ", text, flags=re.M)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:`(.+?)`|required) \|", part, flags=re.M)
        if "| key | type | default | meaning |" in part:
            found[part.splitlines()[0]] = dict(rows)
    return found


def wanted(kind: type, base: type | None = None) -> dict[str, object]:
    """Defaults of a dataclass; with `base` those that it adds or changes."""
    every = kind() if kind is Lora else kind(data="d", out="o")
    inherited, values = asdict(base()) if base else {}, asdict(every)
    own = ("stage", "data", "out")
    return {k: v for k, v in values.items() if k not in inherited or (k not in own and inherited[k] != v)}


@pytest.mark.parametrize(
    "heading, kind, base",
    [
        ("Every stage", Settings, None),
        ("Keys of `lora`", Lora, None),
        ("Stage `warmup`", Warmup, Settings),
        ("Stage `score`", Score, Settings),
        ("Stage `order`", Order, Score),
        ("Stage `sft`", Sft, Settings),
        ("Stage `reason`", Reason, Settings),
    ],
)
def test_tables_of_settings_are_complete_and_true(heading, kind, base):
    stated, known = tables(page("docs/training.md"))[heading], wanted(kind, base)
    assert set(stated) == set(known)
    for key, text in stated.items():
        if text:
            value = yaml.safe_load(text)
            assert (float(value) if isinstance(known[key], float) else value) == known[key], key
        else:
            assert key in ("stage", "data", "out"), key


def test_losses_presets_and_prompt_keys_are_named():
    training, prompts = page("docs/training.md"), page("docs/prompt.md")
    assert all(f"| `{name}` |" in training for name in LOSSES)
    assert all(f"| `{name}` |" in prompts for name in PRESETS)
    assert all(f"`{f.name}`" in prompts for f in fields(Prompt))


def test_messages_in_the_data_page_are_in_the_code():
    """The constant part of each message of the last table; the variable parts belong to the tests of bad input."""
    tested = bare(page("tests/test_cli_errors.py"))
    rows = re.findall(r"^\| [\w ]+ \| `+(.+?)`+ \|$", page("docs/data.md").split("## What goes wrong")[1], flags=re.M)
    assert len(rows) >= 7
    for message in rows:
        assert all(bare(part) in tested for part in message.split("…")), message


def bare(text: str) -> str:
    """Text without what regular expressions and quoting add to a message."""
    return re.sub(r"[\\()*'\"]", "", text.replace(".*", ""))


def anchors(text: str) -> set[str]:
    return {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, flags=re.M)}


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        assert "://" not in target, target
        place = (path.parent / file) if file else path
        assert place.exists(), target
        assert not anchor or anchor in anchors(place.read_text(encoding="utf-8")), target


def test_pages_are_linked_from_the_readme():
    assert all(f"]({shown(p)})" in page("README.md") for p in PAGES[1:])


def test_readme_runs_as_it_stands(standin, capsys):
    """The six lines, with a tiny stand-in for the default model."""
    code = next(text for name, text in blocks("python") if name == "README.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    assert "Reranker()" in code
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.strip().splitlines()) == 2


def snippets() -> list:
    """(page, code) of every Python block, called by its page and its number there."""
    made, count = [], {}
    for name, code in blocks("python"):
        count[name] = count.get(name, 0) + 1
        made.append(pytest.param(name, code, id=f"{name}-{count[name]}"))
    return made


FRAMEWORKS = ("langchain_core", "llama_index", "haystack", "mteb", "rerankers")  # `make test-integrations` has them
# What would train for minutes, or fetch a task, is made small; nothing else of a block is changed.
SHORTER = {
    "minutes=10": "minutes=0.02, device='cpu'",
    '"steps=40"]': '"steps=2", "batch_size=4", "device=cpu", "dtype=fp32", "dev_queries=0"]',
}


def why_not(code: str) -> str:
    """Why a block cannot be run here; "" where it can."""
    absent = [name for name in FRAMEWORKS if re.search(rf"^(?:from|import) {name}\b", code, re.M) and not find_spec(name)]
    absent += ["rerankers"] if "integrations.rerankers" in code and not find_spec("rerankers") else []
    if absent:
        return f"{absent[0]} is not installed; make test-integrations runs this block"
    if "http://localhost:8000" in code:
        return "needs a server on port 8000; test_serve_dialects speaks to one as this client does"
    return ""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, standin_files) -> Path:
    """A folder with a tiny checkpoint, or a few lines of data, under every name that a block of the docs mentions. Read only."""
    root = tmp_path_factory.mktemp("docs")
    tokenizer, thinker = byte_tokenizer("smollm"), byte_tokenizer("qwen2")
    for name in ("demo", "smollm2-135m"):
        save_checkpoint(root / f"runs/{name}/score/model", tiny_llama(tokenizer), Prompt.preset("prorank").bind(tokenizer))
        (root / f"runs/{name}/score/config.yaml").write_text("stage: score\n")
    save_checkpoint(root / "runs/r0-ppo", tiny_qwen2(thinker), Prompt.preset("rerank-r0").bind(thinker))
    save_tiny(root / "mixedbread-ai/mxbai-rerank-base-v2", "qwen2")
    save_tiny(root / "my-model")
    for name, count in (("labels.jsonl", 24), ("dev.jsonl", 24), ("data/train.jsonl", 24)):
        (root / name).parent.mkdir(exist_ok=True)
        write_jsonl(root / name, toy_lists(count))
    write_collection(root, "my-set")
    shutil.copytree(ROOT / "configs", root / "configs")
    return root


@pytest.mark.parametrize("name, code", snippets())
def test_snippets_run(name, code, stand_ins, standin, tmp_path, monkeypatch):
    """Row 24: every Python block of the docs, in a namespace of its own."""
    if reason := why_not(code):
        pytest.skip(reason)
    shutil.copytree(stand_ins, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr("prorank.train.run.plot", lambda run: None)  # a second a run, tested elsewhere
    monkeypatch.setattr("prorank.engine.kernels.torch.compile", lambda step, **_: step)  # a minute of a C++ compiler, likewise
    if 'from_pretrained("out/classifier")' in code:
        export("runs/demo/score", "out/classifier")
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    space = {"__name__": "snippet"}
    if re.search(r"\btokenizer\b", code) and "tokenizer =" not in code:  # the text around the block says which
        space["tokenizer"] = AutoTokenizer.from_pretrained("runs/demo/score/model")
    exec(compile(code, name, "exec"), space)


def test_version_and_licence():
    assert f"## {prorank.__version__}" in page("CHANGELOG.md")
    assert "Apache License\n                           Version 2.0, January 2004" in page("LICENSE")
    assert "END OF TERMS AND CONDITIONS" in page("LICENSE")


def tracked() -> list[Path]:
    """Files of the repository, those not yet added included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_machine_paths_and_no_hosts():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if (MACHINE.search(line) or HOSTS.search(line)) and path != Path(__file__):
                found.append(f"{shown(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_the_search_for_machine_paths_finds_them():
    assert all(MACHINE.search(f"in {root}data") for root in ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/someone/"))
    assert not MACHINE.search("prorank/wo" + "rk/x, runs/demo, and/or, wo" + "rk/tmp")
