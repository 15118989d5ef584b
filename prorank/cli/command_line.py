"""The command line: every verb, in the panel of its task.

A verb is a thin call of the library. An error that the user can fix becomes one line on stderr and exit code 2. Slow imports are
made when a verb runs, so that help is printed immediately.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..utils.memory import steady_memory
from ..utils.terminal import guarded, past_typer, say, set_up_streams
from ..utils.threads import share_processors
from .bulk_command import score_pairs
from .checkpoint_commands import export, pull
from .data_commands import adapt, calibrate, mine_lists
from .evaluate_command import evaluate
from .index_command import index
from .info_command import info
from .options import MAIN
from .rerank_command import rerank
from .search_command import search
from .serve_command import serve
from .thinking_commands import import_logs, label, sample_pairs, score_completions
from .train_commands import demo, plot, train

VERBS: dict[str, dict[str, Callable[..., None]]] = {
    "Rank": {
        "rerank": rerank,
        "score-pairs": score_pairs,
        "search": search,
        "index": index,
        "serve": serve,
        "evaluate": evaluate,
    },
    "Your data": {"mine": mine_lists, "adapt": adapt, "calibrate": calibrate},
    "Train": {"train": train, "plot": plot, "demo": demo},
    "Thinking models": {
        "label": label,
        "sample-pairs": sample_pairs,
        "import-logs": import_logs,
        "score-completions": score_completions,
    },
    "Checkpoints": {"pull": pull, "export": export, "info": info},
}


class VerbGroup(TyperGroup):
    """The group of all verbs; errors that typer would swallow are passed on to `guarded`."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb within `past_typer`."""
        with past_typer():
            return super().invoke(ctx)


app = typer.Typer(
    cls=VerbGroup,
    name="prorank",
    help="Rank documents with a small language model, train it, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for panel, verbs in VERBS.items():
    for name, function in verbs.items():
        app.command(name, rich_help_panel=panel)(function)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.", rich_help_panel=MAIN),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log more, such as the dtype that was chosen and why.", rich_help_panel=MAIN)
    ] = False,
) -> None:
    """Options before the verb."""
    if verbose:
        logging.getLogger("prorank").setLevel(logging.DEBUG)


def main() -> None:
    """Entry point. Exit codes: 0 success, 2 an error that the user can fix, 130 Ctrl-C."""
    # Hide bars and warnings of these libraries, unless the user has set the variables.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    share_processors()
    steady_memory()
    set_up_streams()
    logging.getLogger("prorank").setLevel(logging.INFO)
    with guarded():
        app()


if __name__ == "__main__":
    main()
