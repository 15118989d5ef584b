"""README and docs against the code: verbs, options, settings, links, commands, snippets, pictures, generated tables.

Every `prorank …` line in a bash block is parsed by the command line itself, so an example cannot outlive its option.
"""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

import prorank
from prorank.checkpoints.saving import save_checkpoint
from prorank.export import export
from prorank.prompts.prompt import PRESETS, Prompt
from prorank.prompts.prompt_settings import PromptSettings
from prorank.search import CANDIDATES
from prorank.train.objectives.ranking_losses import LOSSES
from prorank.train.settings.stage_settings import STAGE_SETTINGS, Lora, list_keys, load_settings
from prorank.utils.config_files import list_keys_of
from scripts import docs_tables, draw_pictures
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama, tiny_qwen2, toy_lists, write_jsonl
from tests.toy_data import write_collection

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = [ROOT / "benchmarks" / "README.md", *sorted((ROOT / "examples").glob("*/README.md"))]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *OTHERS, *DOCS]
COMMANDS = docs_tables.commands()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
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


def test_every_verb_has_an_example_and_docs_name_no_other():
    assert {words[0] for name, words in examples() if not name.startswith("configs")} == set(COMMANDS)
    named = {verb for p in PAGES for verb in re.findall(r"`prorank ([a-z][a-z-]*)", p.read_text(encoding="utf-8"))}
    assert named <= set(COMMANDS)


def test_the_readme_is_short_and_in_order():
    text = page("README.md")
    assert len(text.splitlines()) < 120
    assert re.findall(r"^## (.+)$", text, flags=re.M) == [
        "Install",
        "Six lines",
        "Three tasks",
        "Train from scratch",
        "Limits",
        "More",
    ]
    assert text.index("![") < text.index("## Install")
    tasks = text.split("## Three tasks")[1].split("\n## ")[0]
    assert [shlex.split(b)[1] for b in re.findall(r"```bash\n(.*?)```", tasks, re.S)] == ["rerank", "serve", "adapt"]


@pytest.mark.parametrize("name, words", examples(), ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]))
def test_examples_are_what_the_command_line_takes(name, words, monkeypatch):
    context = COMMANDS[words[0]].make_context(words[0], list(words[1:]))
    if words[0] == "train" and context.params["list_keys"]:
        assert str(context.params["config"] or "score") in STAGE_SETTINGS and not context.params["overrides"]
    elif words[0] == "train":
        monkeypatch.chdir(ROOT)
        load_settings(context.params["config"], context.params["overrides"])


def test_every_option_of_evaluate_is_explained():
    explained = set(re.findall(r"`(--[\w-]+)", page("docs/guides/evaluate.md")))
    options = {name for p in COMMANDS["evaluate"].params for name in p.opts if name.startswith("--")} - {"--help"}
    assert options <= explained


SHARED = ["shared", "shared lora."]
STAGE_TABLES = {
    "warmup": [*SHARED, "warmup"],
    "score": [*SHARED, "score"],
    "order": [*SHARED, "score", "order score"],
    "sft": [*SHARED, "sft"],
    "reason": [*SHARED, "reason", "reason ppo.", "reason grpo."],
}


def rows_of(markdown: str) -> dict[str, list[str]]:
    """A generated table: key -> the other cells of its row."""
    lines = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in markdown.splitlines()[2:]]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def stage_defaults(stage: str) -> dict[str, object]:
    """Keys and defaults of a stage, read from an object of its settings class; nested blocks come with dots."""
    settings = STAGE_SETTINGS[stage](data="d", out="o", lora=Lora())
    values = asdict(settings) | {f"lora.{key}": value for key, value in asdict(Lora()).items()} | {"lora": None}
    blocks = {key: value for key, value in values.items() if is_dataclass(getattr(settings, key, None)) and key != "lora"}
    return values | {f"{block}.{key}": value for block, keys in blocks.items() for key, value in keys.items()}


@pytest.mark.parametrize("stage", STAGE_SETTINGS)
def test_generated_tables_of_settings_are_complete_and_true(stage):
    rows: dict[str, list[str]] = {}
    for argument in STAGE_TABLES[stage]:
        assert f"<!-- generated: settings {argument} -->" in page("docs/reference/settings.md")
        rows |= rows_of(docs_tables.settings_table(argument))  # a later table replaces defaults of an earlier one
    values = stage_defaults(stage)
    assert set(rows) == set(values)
    for key, (_, default, meaning) in rows.items():
        assert len(meaning.strip("` |")) > 10, f"{stage}.{key} has no description"
        if default not in ("required", "its keys below"):
            shown = yaml.safe_load(default.strip("`"))
            assert (float(shown) if isinstance(values[key], float) else shown) == values[key], key


def test_every_key_of_every_stage_and_prompt_has_a_description():
    keys = [key for stage in STAGE_SETTINGS for key in list_keys(stage)] + list_keys_of(PromptSettings)
    assert len(keys) > 200 and not [key.name for key in keys if len(key.description) <= 10]


def test_every_verb_and_option_is_in_the_generated_reference():
    reference = docs_tables.cli_reference()
    for name, command in COMMANDS.items():
        part = reference.split(f"## prorank {name}\n")[1].split("\n## ")[0]
        options = [opt for p in command.params if p.param_type_name == "option" and not p.hidden for opt in p.opts]
        assert all(opt in part for opt in options), name


def test_the_generated_reference_shows_usage_and_defaults():
    reference = docs_tables.cli_reference()
    assert "prorank adapt [LABELS]... [OPTIONS]" in reference and "prorank search CORPUS [QUERY] [OPTIONS]" in reference
    part = reference.split("## prorank calibrate\n")[1].split("\n## ")[0]
    assert "prorank calibrate [MODEL] [OPTIONS]" in part
    rows = rows_of("\n".join(line for line in part.splitlines() if line.startswith("|")))
    assert rows["--seed"][0] == "`0`" and rows["--think, --no-think"][0] == "`--think`" and rows["--data"][0] == "required"


def test_the_search_page_knows_the_default_of_candidates():
    assert f"hands to the reranker, {CANDIDATES} by default" in page("docs/guides/search.md")


def test_losses_presets_and_prompt_keys_are_named():
    training, prompts = page("docs/guides/train.md"), page("docs/guides/prompts.md")
    assert all(f"| `{name}` |" in training for name in LOSSES)
    assert all(f"| `{name}` |" in prompts for name in PRESETS)
    keys = rows_of(docs_tables.prompt_table())
    assert set(keys) == {field.name for field in fields(PromptSettings)} == {field.name for field in fields(Prompt)}
    assert all(cells[1].strip("` |") for cells in keys.values())


def test_markers_name_generators_and_are_filled():
    markers = [m for p in DOCS for m in docs_tables.MARKER.findall(p.read_text(encoding="utf-8"))]
    assert {name for name, _ in markers} == set(docs_tables.GENERATORS)
    filled = docs_tables.fill_markers(page("docs/experiments.md"))
    assert "<!--" not in filled and "E106" in filled
    with pytest.raises(KeyError):
        docs_tables.fill_markers("<!-- generated: nothing -->")


def test_pictures_are_those_that_the_script_draws():
    for name, draw in draw_pictures.DRAWN.items():
        assert (draw_pictures.PICTURES / name).read_text(encoding="utf-8") == draw(), f"make pictures draws {name} anew"


def test_the_layers_of_the_architecture_are_those_of_the_import_contract():
    """The first table holds every layer of the contract, from the top down."""
    contract = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    rows = re.findall(r"^\| (`prorank/.*?) \|", page("docs/architecture.md").split("## The path")[0], flags=re.M)
    documented = [{name.removesuffix(".py") for name in re.findall(r"`prorank/([\w.]+)`", row)} for row in rows]
    assert documented == [set(layer.split(" | ")) for layer in contract]


# Files of Rerank-R0's own repository, in a table that says where they are here.
RERANK_R0 = {"prorank/data.py", "prorank/sft_stage_a.py", "prorank/config.py", "prorank/models.py", "prorank/reward.py",
             "configs/stage_a.yaml"}  # fmt: skip
PATH = re.compile(r"(?<![\w./-])(?:prorank|benchmarks|scripts|tests|configs|recipes|docs)/[\w./-]*\w/?(?![\w/]*\.\.\.)")
READMES = [ROOT / "recipes/default/README.md", *sorted((ROOT / "prorank/models").glob("*/README.md"))]


@pytest.mark.parametrize("path", [*PAGES, *READMES, *sorted((ROOT / "configs").rglob("*.yaml"))], ids=shown)
def test_paths_named_in_the_pages_exist(path):
    text = re.sub(r"prorank search docs/", "", path.read_text(encoding="utf-8"))  # a folder of the reader
    missing = {name for name in PATH.findall(text) if not (ROOT / name).exists()}
    assert missing - (RERANK_R0 if path.name == "thinking.md" else set()) == set()


def test_where_is_answers_with_one_path_each():
    rows = re.findall(r"^\| (.+?\?) \| `(.+?)` \| (.+?) \|$", page("docs/architecture.md").split("## Where is")[1], flags=re.M)
    assert len(rows) >= 12 and all((ROOT / path).exists() for _, path, _ in rows)
    for question, path, answer in rows:
        files = [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).glob("*.py"))
        code = "".join(
            f.read_text(encoding="utf-8") for f in [*files, *(ROOT / p for p in re.findall(r"`(prorank/\S+?\.py)`", answer))]
        )
        for name in re.findall(r"`([A-Za-z_]\w+)(?:\.\w+)?`", answer):
            if name not in ("loss",):
                assert re.search(rf"\b{name}\b", code), f"{question} {name} is not in {path}"


def test_names_of_modules_and_functions_in_the_pages_exist():
    """`prorank.…` in code spans and Python blocks."""
    names = {
        name for path in PAGES for name in re.findall(r"(?<![\w/.-])prorank(?:\.[A-Za-z_]\w*)+", path.read_text(encoding="utf-8"))
    }
    for name in sorted(names - {"prorank.env", "prorank.service"}):
        if name.startswith("prorank.integrations."):
            assert find_spec(".".join(name.split(".")[:3])), name  # its framework may not be installed
            continue
        place, head = prorank, "prorank"
        for part in name.split(".")[1:]:
            head += f".{part}"
            place = getattr(place, part, None) or (import_module(head) if find_spec(head) else None)
            assert place is not None, f"{name}: no {part}"


# Names that are no more: options, verbs, settings and classes of earlier days. `log.jsonl` and evidence of old commits keep theirs.
RETIRED = re.compile(
    r"\b(BoundPrompt|BoundListPrompt|Writer|Cuts|take_thoughts|take_lists|holds_many|kl_coef|cliprange\w*|group_size|keep_answers|"
    r"split_special|units_per_second|unread)\b|"
    r"--(each|at-once|tries|pool|fresh|likelihood|max-waiting|max-held-bytes|max-seconds)\b|prorank (pairs|convert|reward)\b|"
    r"children=|`(evals|force|near|keep|softmax|scaling|clip)`"
)


@pytest.mark.parametrize("path", [*PAGES, *READMES, *sorted((ROOT / "configs").rglob("*.yaml"))], ids=shown)
def test_no_page_uses_a_retired_name(path):
    if path.name == "stage_a.yaml":
        return  # Rerank-R0's own file, to the letter
    assert [match[0] for match in RETIRED.finditer(path.read_text(encoding="utf-8"))] == []


def data_blocks(kind: str) -> list[tuple[str, str]]:
    return [pytest.param(text, id=f"{name}-{n}") for n, (name, text) in enumerate(blocks(kind))]


@pytest.mark.parametrize("text", data_blocks("json"))
def test_json_blocks_are_json(text):
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        rest = rest[end:].strip()


@pytest.mark.parametrize("text", data_blocks("yaml"))
def test_yaml_blocks_are_yaml(text):
    assert isinstance(yaml.safe_load(text), dict)


def module_commands() -> list:
    """(module, its options) of every `python -m benchmarks.…`, `recipes.…` and `scripts.…` in the pages, line ends joined."""
    found = {}
    for path in PAGES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for module, rest in re.findall(r"python -m ((?:benchmarks|recipes|scripts)\.[\w.]*\w)([^`\n]*)", text):
            found.setdefault(module, set()).update(re.findall(r"(?<=\s)--[a-z][\w-]+", rest.split(" -- ")[0].split("#")[0]))
    return [pytest.param(module, options, id=module) for module, options in sorted(found.items())]


@pytest.mark.parametrize("module, options", module_commands())
def test_commands_of_scripts_exist_with_their_options(module, options):
    file = ROOT / Path(*module.split(".")).with_suffix(".py")
    assert file.is_file(), module
    shared = "".join(page(f"benchmarks/{name}.py") for name in ("common", "protocol"))
    assert not [option for option in options if f'"{option}"' not in file.read_text(encoding="utf-8") + shared]


def test_messages_in_the_data_page_are_in_the_code():
    """The constant part of each message of the last table; the variable parts belong to the tests of bad input."""
    tested = bare(page("tests/test_cli_errors.py"))
    rows = re.findall(r"^\| [\w ]+ \| `+(.+?)`+ \|$", page("docs/guides/data.md").split("## Error messages")[1], flags=re.M)
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


def test_every_page_is_in_the_navigation():
    def leaves(node):
        return (
            [node]
            if isinstance(node, str)
            else [leaf for item in (node.values() if isinstance(node, dict) else node) for leaf in leaves(item)]
        )

    nav = leaves(yaml.safe_load(page("mkdocs.yml"))["nav"])
    assert sorted(nav) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in DOCS)


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


FRAMEWORKS = ("langchain_core", "llama_index", "haystack", "mteb", "rerankers", "lancedb")  # `make test-integrations` has them
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
    if "import onnxruntime" in code:
        return "needs a folder with graphs; tests/exports/test_onnx.py runs this block"
    if re.search(r"^from llama_cpp\b", code, re.M):
        return "needs a model of its own; make test-exports runs this block"
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
    """Every Python block of the docs, in a namespace of its own."""
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
