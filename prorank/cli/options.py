"""Options that several verbs share, and the panels that group options in the help.

Typer reads names, types and help from these annotations; each verb sets its own default.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from ..utils.terminal import argument_text

# Panels of options. The first is typer's own, which also contains `--help`.
MAIN = "Options"
MODEL = "Model and prompt"
THINKING = "Thinking models"
COMPUTE = "Device and speed"
OUTPUT = "Output"
# Options whose values are arguments of `Reranker`, besides `--compile`.
RERANKER_OPTIONS = (
    "prompt", "max_length", "long_documents", "base", "trust_remote_code", "think", "samples", "max_think_tokens", "think_top",
    "device", "dtype",
)  # fmt: skip

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Checkpoint: folder, adapter, GGUF file, hub id or smollm2-135m.", rich_help_panel=MODEL),
]
Base = Annotated[
    str | None,
    typer.Option("--base", help="Base of an adapter, instead of the one in its settings.", rich_help_panel=MODEL),
]
RemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Download and run Python files of a hub model.", rich_help_panel=MODEL),
]
PromptName = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="PRESET|FILE",
        help="Prompt preset (such as mxbai) or YAML file. Default: the checkpoint's own prompt.",
        rich_help_panel=MODEL,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        metavar="TOKENS",
        help="Maximum number of tokens of a prompt. Default: the checkpoint's own.",
        rich_help_panel=MODEL,
    ),
]
LongDocuments = Annotated[
    str,
    typer.Option(
        "--long-documents",
        metavar="auto|truncate|chunk",
        help="Documents that do not fit into a prompt: read their beginning, or overlapping chunks of which the best counts.",
        rich_help_panel=MODEL,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="How documents are ranked: pointwise, setwise or listwise; settings follow a colon, as in setwise:k=5.",
        rich_help_panel=MODEL,
    ),
]
Instruction = Annotated[
    str | None,
    typer.Option(
        "--instruction", metavar="TEXT", help="What counts as relevant. Default: as in the prompt.", rich_help_panel=MODEL
    ),
]
Language = Annotated[
    str,
    typer.Option(
        "--language",
        metavar="NAME",
        help="Language of BM25: german, de, chinese, none, ... Default: detected from the corpus.",
        rich_help_panel=MAIN,
    ),
]
Gain = Annotated[
    str,
    typer.Option("--gain", help="Gain of a label in nDCG: linear (the label) or exponential (2^label - 1).", rich_help_panel=MAIN),
]
Think = Annotated[
    bool,
    typer.Option(
        "--think/--no-think", help="Let a thinking model think; with --no-think it answers at once.", rich_help_panel=THINKING
    ),
]
Samples = Annotated[
    int,
    typer.Option("--samples", help="Thoughts sampled per document; their mean log-odds is the score.", rich_help_panel=THINKING),
]
ThinkTokens = Annotated[
    int | None,
    typer.Option(
        "--max-think-tokens",
        metavar="TOKENS",
        help="Maximum number of tokens of a thought. Default: the checkpoint's own.",
        rich_help_panel=THINKING,
    ),
]
ThinkTop = Annotated[
    int | None,
    typer.Option(
        "--think-top",
        metavar="N",
        help="Think about the best N documents of a direct pass only. Default: about all.",
        rich_help_panel=THINKING,
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or mps. Default: the best one available.", rich_help_panel=COMPUTE)
]
Dtype = Annotated[
    str,
    typer.Option("--dtype", help="auto (measured on this machine), bf16, fp32, or int8 (CPU only).", rich_help_panel=COMPUTE),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile steps, which takes seconds and then is faster. Default: for long jobs only.",
        rich_help_panel=COMPUTE,
    ),
]


def compile_choice(flag: bool | None) -> bool | str:
    """Return the `compile` argument for `--compile`, `--no-compile` or neither ("auto")."""
    return "auto" if flag is None else flag


def reranker_options(context: typer.Context) -> dict[str, Any]:
    """Return the arguments of `Reranker` among the options of a verb; the model's name and the method are not among them."""
    values = {name: context.params[name] for name in RERANKER_OPTIONS if name in context.params}
    return values | {"compile": compile_choice(context.params["compile"])}


def was_passed(context: typer.Context, name: str) -> bool:
    """Whether the user passed this parameter on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def first_passed(context: typer.Context, names: Iterable[str]) -> str | None:
    """Return the name, in messages, of the first of these parameters that the user passed; None if there is none."""
    return next((option_name(context, name) for name in names if was_passed(context, name)), None)


def option_name(context: typer.Context, name: str) -> str:
    """Return a parameter's name in messages: `--max-length`; `--no-think` for a flag that was switched off."""
    parameter = next(parameter for parameter in context.command.params if parameter.name == name)
    switched_off = parameter.secondary_opts and context.params.get(name) is False
    return parameter.secondary_opts[0] if switched_off else parameter.opts[0]


def one_query(option: str | None, argument: str | None) -> str | None:
    """Return the query, which is either the option `--query` or the second argument.

    Raises:
        ConfigError: both are used.
    """
    if option is not None and argument is not None:
        raise ConfigError(f"two queries: --query {option!r} and the argument {argument!r}; give the query once")
    return argument_text(argument if option is None else option)


def check_positive(value: int | None, option: str, remedy: str = "") -> None:
    """Raise ConfigError for a number below 1."""
    if value is not None and value < 1:
        raise ConfigError(f"{option} must be at least 1, not {value}{remedy}")
