"""Options that several verbs take, so that each says the same of them.

Typer reads the help from these annotations; defaults stay with the verbs.
"""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="Checkpoint: folder, adapter, GGUF file, hub id or smollm2-135m.")]
Base = Annotated[str | None, typer.Option(help="Where an adapter's base is, in place of what the adapter calls it.")]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Fetch and run the Python files that a model brings.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")]
Dtype = Annotated[str, typer.Option(help="auto, bf16, fp32, or int8 (CPU).")]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Fuse steps on a CPU: faster after some seconds; by default for long jobs."),
]
PromptName = Annotated[str | None, typer.Option("--prompt", help="Preset or YAML file in place of the checkpoint's own: mxbai.")]
Method = Annotated[str, typer.Option(help="pointwise, setwise or listwise, with options where wanted: setwise:k=5,children=9.")]
Length = Annotated[int | None, typer.Option(help="Tokens of a whole prompt; the checkpoint's own by default.")]
Think = Annotated[bool, typer.Option(help="Let a thinking model think; --no-think asks it at once.")]
Gain = Annotated[str, typer.Option(help="Of a label in nDCG: linear (the label) or exponential (2^label - 1).")]
Samples = Annotated[int, typer.Option(help="Thoughts a document, whose mean is the score.")]
ThinkTokens = Annotated[int | None, typer.Option(help="Budget of a thought; the checkpoint's own by default.")]


def compile_of(given: bool | None) -> bool | str:
    """What `--compile` or `--no-compile` asks for; "auto" where neither was given."""
    return "auto" if given is None else given
