"""Tables of the documentation that are generated from the code and from `benchmarks/log.jsonl`.

A docs page contains a marker `<!-- generated: NAME ARGUMENT -->`. `fill_markers` replaces it with Markdown when the site is built,
so tables of settings, options and experiments are never copied by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from prorank.prompts.prompt_settings import PromptSettings
from prorank.train.settings.stage_settings import STAGE_SETTINGS, list_keys
from prorank.utils.config_files import Key, list_keys_of

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "benchmarks" / "log.jsonl"
MARKER = re.compile(r"<!-- generated: (\w+) ?(.*?) -->")
REQUIRED = ("stage", "data", "out")  # settings without a default that can be used
YAML_TYPES = {
    "str": "string",
    "dict": "mapping",
    "tuple": "list",
    "nothing": "null",
    "Lora": "mapping",
    "Ppo": "mapping",
    "Grpo": "mapping",
}


def _type_text(names: str) -> str:
    """Return types in YAML's words: `int or null`."""
    return " or ".join(YAML_TYPES.get(name, name) for name in names.split(" or "))


def _yaml(value: Any) -> str:
    """Return a default as one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{value:g}"
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip() or '""'


def _cell(text: str) -> str:
    """Return a text on one line, with bars and, outside code spans, angle brackets escaped."""
    spans = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return " ".join("".join(s if s.startswith("`") else s.replace("<", "&lt;") for s in spans).split())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table. Cells are put on one line and escaped."""
    names = list(head)
    lines = [names, ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shared_keys() -> list[Key]:
    """Return the keys of all stages. If defaults differ, that of stage `warmup` is used."""
    by_stage = {stage: list_keys(stage) for stage in STAGE_SETTINGS}
    names = set.intersection(*({key.name for key in keys} for keys in by_stage.values()))
    return [key for key in next(iter(by_stage.values())) if key.name in names]


def own_keys(stage: str, base: str = "") -> list[Key]:
    """Return the keys that a stage adds to those of stage `base` (or to the shared ones), or whose default it changes."""
    inherited = {key.name: key.default for key in (list_keys(base) if base else shared_keys())}
    keys = [key for key in list_keys(stage) if key.name not in REQUIRED]
    return [key for key in keys if key.name not in inherited or key.default != inherited[key.name]]


def settings_table(argument: str) -> str:
    """Return a table of keys of the training stages.

    Args:
        argument: `shared` for the keys that every stage has, `STAGE` for those that a stage adds or changes, `STAGE BASE` for those
            that it adds to another stage; each without the keys of nested blocks. `BLOCK.` after it selects the keys of one block.
    """
    name, *rest = argument.split()
    block = rest.pop() if rest and rest[-1].endswith(".") else ""
    keys = shared_keys() if name == "shared" else own_keys(name, *rest)
    rows = [
        [f"`{key.name}`", _type_text(key.type), _default_text(key), key.description]
        for key in keys
        if key.name.startswith(block) and (block or "." not in key.name)
    ]
    return table(["key", "type", "default", "meaning"], rows)


def _default_text(key: Key) -> str:
    if key.name in REQUIRED:
        return "required"
    return "its keys below" if dataclasses.is_dataclass(key.default) else f"`{_yaml(key.default)}`"


def prompt_table(argument: str = "") -> str:
    """Return a table of the keys of a prompt."""
    del argument
    keys = list_keys_of(PromptSettings)
    return table(["key", "default", "meaning"], [[f"`{key.name}`", _default_text(key), key.description] for key in keys])


def commands() -> dict[str, Any]:
    """Return the click commands of `prorank`, by verb, in alphabetical order."""
    import typer

    from prorank.cli.command_line import app

    return dict(sorted(typer.main.get_command(app).commands.items()))


def cli_reference(argument: str = "") -> str:
    """Describe every verb of the command line with its arguments and options."""
    del argument
    return "\n\n".join(_verb(name, command) for name, command in commands().items())


def _verb(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["prorank", name, *(_argument_usage(p) for p in arguments), "[OPTIONS]"])
    about = re.sub(r"^prorank .+$", r"`\g<0>`", inspect.cleandoc(command.help or ""), flags=re.M)  # an example
    parts = [f"## prorank {name}", about, f"```text\n{usage}\n```"]
    rows = [[f"`{p.metavar or p.name.upper()}`", _option_default(p), getattr(p, "help", "") or ""] for p in arguments]
    rows += [[f"`{', '.join(p.opts + p.secondary_opts)}`", _option_default(p), p.help or ""] for p in options]
    return "\n\n".join([*parts, table(["argument or option", "default", "meaning"], rows)])


def _argument_usage(argument: Any) -> str:
    """Return an argument for a usage line: `[NAME]` if it is optional, with dots if it may be repeated."""
    name = argument.metavar or argument.name.upper()
    return (name if argument.required else f"[{name}]") + "..." * (argument.nargs == -1)


def _option_default(param: Any) -> str:
    """Return the default; for a pair such as `--think, --no-think` the default option; "" for other flags."""
    if param.required:
        return "required"
    default = param.default
    if isinstance(default, bool):
        return f"`{param.opts[0]}`" if default and param.secondary_opts else ""
    if callable(default) or default in (None, [], ()) or type(default).__name__ == "Sentinel":
        return ""
    return f"`{default}`"


def read_log(path: Path = LOG) -> list[dict[str, Any]]:
    """Return the rows of the experiment log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def headlines(argument: str) -> str:
    """List the important findings (`finding`) or failures (`failure`), each with a link to its row."""
    rows = [row for row in read_log() if row.get("list") == argument]
    return "\n".join(f"{n}. {row['headline']} [{row['id']}](#{row['id']})" for n, row in enumerate(rows, 1))


def log_table(argument: str = "") -> str:
    """Return a table of the log: question, verdict, seeds and minutes."""
    del argument
    rows = []
    for row in read_log():
        what = re.sub(r"[`*]", "", row["question"])
        short = what if len(what) <= 160 else what[:157].rsplit(" ", 1)[0] + " …"
        minutes = str(row["minutes"] or "").partition(" (")[0]
        rows.append([row["id"], row["verdict"], short, row["date"], ", ".join(map(str, row["seeds"])), minutes])
    text = table(["id", "verdict", "what", "date", "seeds", "minutes"], rows)
    return re.sub(r"^\| (E\d+)", r'| <span id="\1">\1</span>', text, flags=re.M)


def log_details(argument: str = "") -> str:
    """Return full entries for rows with a headline: question, command and result."""
    del argument
    parts = []
    for row in read_log():
        if "headline" in row:
            where = ", ".join(str(x) for x in (row["hardware"], f"{row['minutes']} minutes" if row["minutes"] else "") if x)
            parts.append(
                f"**{row['id']}** ({row['date']}; {where}). {row['question']}. Command: {row['command']}. Result: {row['result']}"
            )
    return "\n\n".join(parts)


def changelog(argument: str = "") -> str:
    """Return the change log of the repository, without its title."""
    del argument
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2].strip()


GENERATORS: dict[str, Callable[[str], str]] = {
    "settings": settings_table,
    "prompt": prompt_table,
    "cli": cli_reference,
    "headlines": headlines,
    "log": log_table,
    "details": log_details,
    "changelog": changelog,
}


def fill_markers(markdown: str) -> str:
    """Replace every marker of a page by the output of its generator. Raises KeyError for an unknown generator."""
    return MARKER.sub(lambda match: GENERATORS[match[1]](match[2]), markdown)
