"""Compare quality and cost of several checkpoints and ranking methods on the same candidates.

Every system reorders the same candidates of the same queries in one run; tokens are those of all prompts (a prefix that prompts
share counts in each) and generated ones. Seconds are valid for an idle machine.

    PRORANK_DATA=... python -m benchmarks.evidence.methods "pointwise=runs/score" \
        "setwise, 5 at once=runs/setwise@setwise:k=10,branching=4" "listwise=runs/setwise@listwise:window=10,step=5" \
        --data dl19 --top-k 20
    PRORANK_DATA=... python -m benchmarks.evidence.methods "direct=runs/score" "thinking=runs/r0-score" \
        "empty thought=runs/r0-score@no-think" --data dl19 dl20 --top-k 20 --out runs/thinking

With `--out` scores are stored, so an interrupted command continues with the missing systems and lists.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import compare, data_folder, loader, per_query
from benchmarks.jobs import Failures
from prorank.checkpoints.resolve import resolve
from prorank.evaluate import evaluate
from prorank.evaluate.results import ANSWERS, MODEL
from prorank.evaluate.terminal_report import bars, show
from prorank.rank.methods import read_method


def system(text: str, options: argparse.Namespace) -> Callable[[], Any]:
    """Return a function that loads `NAME=FOLDER[@HOW]`; HOW is a method, `no-think` (an empty thought), `thoughts:N`
    or `think-top:N`.
    """
    name, _, rest = text.partition("=")
    folder, _, how = rest.partition("@")
    if how == "no-think":
        return loader(name, folder, options.length, think=False)
    if how.startswith("thoughts:"):
        return loader(name, folder, options.length, samples=int(how.partition(":")[2]))
    if how.startswith("think-top:"):
        return loader(name, folder, options.length, think_top=int(how.partition(":")[2]))
    prompt = {"prompt": options.prompt} if options.prompt and how else {}
    return loader(name, folder, options.length, **prompt, **(read_method(how) if how else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="+", help="NAME=FOLDER or NAME=FOLDER@HOW, see the docstring")
    parser.add_argument("--data", nargs="+", default=["dl19"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--judged-only", action="store_true", help="rank each query's judged documents, not the protocol list")
    parser.add_argument("--top-k", type=int, default=100, help="candidates reranked")
    parser.add_argument("--limit", type=int, default=None, help="number of queries (all by default)")
    parser.add_argument("--length", type=int, default=None, help="maximum tokens of a prompt")
    parser.add_argument("--prompt", default=None, help="prompt for methods of lists if the checkpoint has none")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    folder = data_folder()
    systems, failures = [], Failures()
    for text in options.systems:
        with failures.arm(text):
            resolve(text.partition("=")[2].partition("@")[0])  # raises errors for missing checkpoints before any run
            systems.append(system(text, options))
    candidates: dict[str, Any] = {"split": options.split, "judged_only": True} if options.judged_only else {"run": "protocol"}
    with bars() as progress:
        report = evaluate(
            [folder / name for name in options.data], systems, top_k=options.top_k, limit=options.limit, out=options.out,
            sample=0, progress=progress, command="benchmarks/evidence/methods.py", **candidates,
        )  # fmt: skip
    show(report)
    print("| set | system | nDCG@10 | prompts a query | tokens read a query | tokens written a query | seconds a query |")
    print("|---|---|---|---|---|---|---|")
    rows = [row for row in report.rows if row.kind != ANSWERS]
    for row in rows:
        values = list(report.values[row.dataset][row.system]["nDCG@10"].values())
        spent = row.cost or {} if row.kind == MODEL else {}
        each = [f"{spent.get(key, 0) / len(values):.1f}" for key in ("calls", "prompt_tokens", "generated_tokens", "seconds")]
        print(f"| {row.dataset} | {row.system} | {sum(values) / len(values):.4f} | {' | '.join(each)} |")
    pooled = per_query(report.values, dict.fromkeys(row.system for row in rows))
    first, *others = pooled
    compare(pooled, [(name, first) for name in others] + [(others[0], name) for name in others[1:]])
    failures.finish()


if __name__ == "__main__":
    main()
