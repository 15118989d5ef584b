"""Verbs for checkpoints: `pull` downloads one, `export` writes one for other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints.default_model import DEFAULT
from ..utils.terminal import say
from .options import MAIN, MODEL, Base, MaxLength, PromptName, RemoteCode


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A hub id, a GGUF file or smollm2-135m.")] = DEFAULT,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Download and convert a checkpoint, and print its folder."""
    from ..checkpoints.resolve import resolve

    say(resolve(name, trust_remote_code=trust_remote_code).folder)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint: folder, adapter, GGUF file, hub id or smollm2-135m.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    format: Annotated[
        str,
        typer.Option(
            help="seq-cls (a classifier with one logit), onnx (the same as a graph), merged (adapter merged into the base) or gguf "
            "(a file for llama.cpp).",
            rich_help_panel=MAIN,
        ),
    ] = "seq-cls",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the weights written: fp32 or bf16; for onnx fp32 (int8 is written too) or int8; for gguf also fp16, "
            "q8_0, q4_0. Default: fp32, for gguf fp16.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    template: Annotated[
        bool,
        typer.Option(
            "--template/--no-template",
            help="Write the prompt into tokenizer.json, or let callers render it.",
            rich_help_panel=MAIN,
        ),
    ] = True,
    instruction: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Instruction in the prompt. Default: the prompt's own.", rich_help_panel=MODEL),
    ] = None,
    prompt: PromptName = None,
    max_length: MaxLength = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Write a checkpoint for other servers: a classifier, ONNX graphs, a model without adapter, or a file for llama.cpp."""
    from ..export import export as write

    result = write(model, out, format, dtype, template, prompt, instruction, max_length, base, trust_remote_code)
    say(result)
    if result.command:  # the command is not run here, because servers are not dependencies
        say(f"{result.server}: {result.command}")
