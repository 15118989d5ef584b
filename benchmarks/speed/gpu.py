"""The GPU engine on this machine: parity, scoring, training and generation, in one table.

    bash benchmarks/speed/gpu.sh                         # sets the environment up; at most eight minutes on a GPU
    python -m benchmarks.speed.gpu --parts scoring       # one part
    python -m benchmarks.speed.gpu --device cpu --small --model FOLDER   # the same code on a CPU with a tiny model

Every part runs in a process of its own with a time limit, so a part that fails is a row of the table and the others go on. A part
may use the time that earlier parts left. `--small` runs all parts in this process. With PRORANK_DATA the documents are those of
dl19 and scifact, else random words of the same lengths. Prints one Markdown table with the card's name and writes it with all
figures as JSON; exits with code 1 if a part failed. The last column is the share of the rate of a plain large matrix product,
measured in the same run: products of the layers per second for the tokens that were computed, without attention and output
matrix.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import machine, say
from benchmarks.jobs import Failures

SHARES = {"prepare": 100, "parity": 60, "scoring": 180, "training": 65, "generation": 45}  # seconds of the parts
PREPARE, *PARTS = SHARES
Row = dict[str, Any]  # what, value, unit, and optionally share and error


class PartError(Exception):
    """A part that failed in its process."""


def run_part(part: str, options: dict[str, Any], add: Callable[[Row], None]) -> None:
    """Run one part in this process; `add` takes each row as soon as it is measured."""
    from benchmarks.speed import gpu_parts

    gpu_parts.FUNCTIONS[part](argparse.Namespace(**options), add)


def run_in_process(part: str, options: dict[str, Any], seconds: float, add: Callable[[Row], None]) -> None:
    """Run one part in a process of its own.

    Raises:
        PartError: it failed, or took longer than `seconds`; rows that it measured before are kept.
    """
    command = [sys.executable, "-m", "benchmarks.speed.gpu", "--part", part, "--options", json.dumps(options)]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, cwd=Path(__file__).resolve().parents[2])
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()  # also after Ctrl-C
            process.wait()
        out.seek(0)
        lines = [json.loads(line) for line in out if line.startswith("{") and line.endswith("}\n")]
    errors = [line["error"] for line in lines if "error" in line]
    for line in lines:
        if "error" not in line:
            add(line)
    if code is None:
        raise PartError(f"took longer than {seconds:.0f} s")
    if code:
        raise PartError(errors[-1] if errors else f"ended with code {code}")


def run_all(options: argparse.Namespace, failures: Failures) -> list[Row]:
    """Run the chosen parts and return their rows."""
    rows: list[Row] = []
    end = time.perf_counter() + options.seconds
    parts = [PREPARE, *sorted(options.parts, key=PARTS.index)]
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts, 1):
            say(f"{part} begins")
            seconds = end - time.perf_counter() - sum(SHARES[other] for other in parts[number:])
            add = lambda row, part=part: rows.append({"part": part, **row})  # noqa: E731
            with failures.arm(part):
                if options.small:
                    run_part(part, {**vars(options), "folder": folder}, add)
                else:
                    run_in_process(part, {**vars(options), "folder": folder}, max(1.0, seconds), add)
            if part in failures:
                add({"what": "failed", "value": failures.reasons[part], "unit": ""})
            if PREPARE in failures:
                break
    return rows


def table(rows: list[Row], facts: dict[str, Any], device: str) -> str:
    """Return the rows as a Markdown table under the name of the card."""
    where = facts.get("gpu") if device != "cpu" else facts["processor"]
    lines = [f"**{where}**, torch {facts['torch']}, commit {(facts['commit'] or 'unknown')[:7]}", ""]
    lines += ["| part | what | value | of the product rate |", "|---|---|---|---|"]
    for row in rows:
        share = f"{row['share']:.1%}" if "share" in row else ""
        value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.4g}"
        cells = row["part"], row["what"], f"{value} {row['unit']}".strip(), share
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="smollm2-135m", help="checkpoint whose weights all systems run")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--queries", type=int, default=12, help="queries of 100 documents for each collection")
    parser.add_argument("--seconds", type=float, default=sum(SHARES.values()), help="limit of the whole run")
    parser.add_argument("--out", default="build/gpu.json", help="file of the figures")
    parser.add_argument("--small", action="store_true", help="few documents and steps, in this process: for tests on a CPU")
    parser.add_argument("--part", choices=list(SHARES), help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        _run_as_part(options.part, json.loads(options.options))
        return
    del options.part, options.options
    failures = Failures()
    rows = run_all(options, failures)
    facts = machine("sentence-transformers")
    print("\n" + table(rows, facts, options.device))
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows, **vars(options), **facts}, indent=2) + "\n", encoding="utf-8")
    say(f"{path} written")
    failures.finish()


def _run_as_part(part: str, options: dict[str, Any]) -> None:
    """Print rows as lines of JSON; an error is the last line, and the exit code is 1."""
    rows = sys.stdout
    sys.stdout = sys.stderr  # output of libraries must not mix with the rows
    try:
        run_part(part, options, lambda row: print(json.dumps(row), file=rows, flush=True))
    except (Exception, SystemExit) as error:
        import traceback

        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        print(json.dumps({"error": f"{type(error).__name__}: {first}"}), file=rows, flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
