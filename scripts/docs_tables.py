"""Tables of the documentation that are generated from the code and from `benchmarks/log.jsonl`.

A docs page holds a marker `<!-- generated: NAME ARGUMENT -->`. `fill_markers` replaces it with Markdown when the site is
built, so no table of settings, options or experiments is a hand-written copy.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "benchmarks" / "log.jsonl"
MARKER = re.compile(r"<!-- generated: (\w+) ?(.*?) -->")
REQUIRED = ("stage", "data", "out")  # settings without a default that can be used


@dataclasses.dataclass(frozen=True)
class Field:
    """One key of a settings class: name, type and default as they are written in YAML, and what it means."""

    name: str
    type: str
    default: Any
    help: str


def fields_of(kind: type) -> list[Field]:
    """The keys of a dataclass or pydantic model, in order.

    The meaning comes from the field's description or, where it has none, from the `Attributes:` or `Args:` section of the
    docstrings of the class and its bases.
    """
    documented = {name: text for base in reversed(kind.__mro__) for name, text in documented_names(base.__doc__ or "").items()}
    if hasattr(kind, "model_fields"):
        rows = [
            (name, f.annotation, f.get_default(call_default_factory=True), f.description) for name, f in kind.model_fields.items()
        ]
    else:
        rows = [(f.name, f.type, _default(f), f.metadata.get("help")) for f in dataclasses.fields(kind)]
    return [
        Field(name, _type_text(annotation), default, text or documented.get(name, "")) for name, annotation, default, text in rows
    ]


def documented_names(docstring: str) -> dict[str, str]:
    """What the `Attributes:` or `Args:` section of a docstring says of each name. `a, b: text` holds for both."""
    section = re.search(r"^(?:Attributes|Args):\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(docstring), re.M | re.S)
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", section[1] if section else ""):
        head = re.match(r"\s*((?:\w+, )*\w+): (.*)", entry, re.S)
        if head:
            texts |= dict.fromkeys(head[1].split(", "), " ".join(head[2].split()))
    return texts


def _default(f: dataclasses.Field[Any]) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return None if f.default is dataclasses.MISSING else f.default


def _type_text(annotation: Any) -> str:
    """A type as a reader of YAML says it: `int or null`."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if not isinstance(annotation, str) and hasattr(annotation, "__args__"):
        text = str(annotation)
    text = re.sub(r"Annotated\[(.*)\]", r"\1", re.sub(r"\b(?:\w+\.)+(?=\w)", "", text))
    text = re.sub(r"Literal\[(.*?)\]", lambda match: " or ".join(match[1].split(", ")), text)
    names = {
        "str": "string",
        "dict": "mapping",
        "None": "null",
        "NoneType": "null",
        "list": "list",
        "tuple": "list",
        "Lora": "mapping",
    }
    parts = [re.sub(r"\[.*\]$", "", part.strip()) for part in re.split(r" \| (?![^\[]*\])", text)]
    return " or ".join(dict.fromkeys(names.get(part, part) for part in parts))


def _yaml(value: Any) -> str:
    """A default as YAML writes it on one line."""
    value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    value = value.model_dump() if hasattr(value, "model_dump") else value
    value = list(value) if isinstance(value, tuple) else value
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{value:g}"
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip() or '""'


def _cell(text: str) -> str:
    """Text on one line, with bars and, outside code spans, angle brackets escaped."""
    spans = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return " ".join("".join(s if s.startswith("`") else s.replace("<", "&lt;") for s in spans).split())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table. Cells are put on one line and escaped."""
    names = list(head)
    lines = [names, ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def settings_table(argument: str) -> str:
    """Keys of a settings class: `MODULE:CLASS`, or `MODULE:CLASS BASE` for the keys that the class adds to BASE or changes."""
    place, _, base_name = argument.partition(" ")
    module, _, name = place.partition(":")
    kinds = import_module(module)
    base = {f.name: f for f in fields_of(getattr(kinds, base_name))} if base_name else {}
    rows = []
    for f in fields_of(getattr(kinds, name)):
        if f.name in base and (f.name in REQUIRED or f.default == base[f.name].default):
            continue
        default = "required" if f.name in REQUIRED else f"`{_yaml(f.default)}`"
        rows.append([f"`{f.name}`", f.type, default, f.help])
    return table(["key", "type", "default", "meaning"], rows)


def prompt_table(argument: str = "") -> str:
    """The keys of a prompt."""
    del argument
    kind = import_module("prorank.prompts.prompt_settings").PromptSettings
    return table(["key", "default", "meaning"], [[f"`{f.name}`", f"`{_yaml(f.default)}`", f.help] for f in fields_of(kind)])


def commands() -> dict[str, Any]:
    """The click commands of `prorank`, by verb, in alphabetical order."""
    import typer

    from prorank.cli.command_line import app

    return dict(sorted(typer.main.get_command(app).commands.items()))


def cli_reference(argument: str = "") -> str:
    """Every verb of the command line with its arguments and options."""
    del argument
    return "\n\n".join(_verb(name, command) for name, command in commands().items())


def _verb(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["prorank", name, *(_argument_usage(p) for p in arguments), "[OPTIONS]"])
    parts = [f"## prorank {name}", inspect.cleandoc(command.help or ""), f"```text\n{usage}\n```"]
    rows = [[f"`{p.metavar or p.name.upper()}`", _option_default(p), getattr(p, "help", "") or ""] for p in arguments]
    rows += [[f"`{', '.join(p.opts + p.secondary_opts)}`", _option_default(p), p.help or ""] for p in options]
    return "\n\n".join([*parts, table(["argument or option", "default", "meaning"], rows)])


def _argument_usage(argument: Any) -> str:
    """An argument in a usage line: `[NAME]` where it may be left out, with dots where it may be repeated."""
    if argument.metavar:
        return str(argument.metavar)
    text = argument.name.upper() if argument.required else f"[{argument.name.upper()}]"
    return text + "..." * (argument.nargs == -1)


def _option_default(param: Any) -> str:
    if param.required:
        return "required"
    default = param.default
    if callable(default) or default in (None, False, [], ()) or type(default).__name__ == "Sentinel":
        return ""
    return f"`{default}`"


def read_log(path: Path = LOG) -> list[dict[str, Any]]:
    """The rows of the experiment log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def headlines(argument: str) -> str:
    """The findings (`finding`) or the failures (`failure`) that matter, each with a link to its row."""
    rows = [row for row in read_log() if row.get("list") == argument]
    return "\n".join(f"{n}. {row['headline']} [{row['id']}](#{row['id']})" for n, row in enumerate(rows, 1))


def log_table(argument: str = "") -> str:
    """Every row of the log: what was tried, the verdict, seeds and minutes."""
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
    """The rows with a headline in full: question, command and result."""
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
    """The change log of the repository, without its title."""
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
    """Replace every marker of a page by what its generator makes. Raises KeyError for an unknown generator."""
    return MARKER.sub(lambda match: GENERATORS[match[1]](match[2]), markdown)
