"""The verb that writes checkpoints for other servers.

What it prints as vLLM's command line was not run; vLLM is no dependency of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..utils.terminal import say
from .options import Base, Length, PromptName, RemoteCode


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint, as --model elsewhere.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    format: Annotated[str, typer.Option(help="seq-cls (a classifier of one logit) or merged (no adapter).")] = "seq-cls",
    dtype: Annotated[str, typer.Option(help="fp32 or bf16, of the weights written.")] = "fp32",
    template: Annotated[bool, typer.Option(help="Bake the prompt into tokenizer.json; --no-template leaves it to callers.")] = True,
    instruction: Annotated[str | None, typer.Option(help="In place of the prompt's default one.")] = None,
    max_length: Length = None,
    prompt: PromptName = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Write a checkpoint for other servers: a classifier with the prompt in its tokenizer, or a model without adapter."""
    from ..export import export as write

    found = write(model, out, format, dtype, template, prompt, instruction, max_length, base, trust_remote_code)
    say(found)
    if found.command:
        say(f"vLLM: {found.command}")
