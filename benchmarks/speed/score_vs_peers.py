"""Scoring speed: ours against sentence-transformers and mxbai-rerank, one checkpoint, the same lists, in one run.

Every system runs in its own process, and only one works at a time. They take turns query by query, so other load on the machine
affects all equally. A ratio is the median over queries.

    python -m benchmarks.speed.score_vs_peers --peers-python PEERS/bin/python     # 20 x 100 documents of dl19, then of scifact
    python -m benchmarks.speed.score_vs_peers --only ours st-bf16 --queries 5            # some of them
    python -m benchmarks.speed.score_vs_peers --device cuda --only fp32 bf16 st-bf16 ours  # on a GPU

PEERS is a separate environment, because mxbai-rerank 0.1.6 fails on transformers 5:

    python -m venv PEERS && PEERS/bin/pip install torch mxbai-rerank==0.1.6 'transformers==4.57.*'

Prints documents/s, tokens per pair, Kendall's tau with the scores of fp32, nDCG@10, the share of the machine's matrix-product
ceiling, and one JSON line. Needs PRORANK_DATA.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

from benchmarks.common import ceiling, layer_flops, machine, ndcg, real_lists, say
from benchmarks.jobs import Failures
from prorank import Reranker
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.engine.batches import windows
from prorank.prompts.prompt import Prompt
from prorank.rank.chunk_scores import ChunkScores
from prorank.rank.pointwise import PointwiseStrategy

# Reference scores for each prompt: transformers in fp32 without padding, and mxbai-rerank, which runs in fp32.
TRUTH = {"prorank": "fp32", "mxbai": "mxbai-rerank"}
# name: (prompt, description)
SYSTEMS = {
    "fp32": ("prorank", "transformers fp32, one by one"),
    "bf16": ("prorank", "transformers bf16, batches of 32"),
    "st-fp32": ("prorank", "sentence-transformers fp32"),
    "st-bf16": ("prorank", "sentence-transformers bf16"),
    "ours": ("prorank", "ours"),
    "ours-compiled": ("prorank", "ours, compiled"),
    "ours-int8": ("prorank", "ours, int8, compiled"),
    "mxbai-rerank": ("mxbai", "mxbai-rerank as it installs"),
    "ours-mxbai": ("mxbai", "ours, preset mxbai"),
}


class Worker:
    """One system in its own process."""

    def __init__(self, name: str, python: str, folder: str, device: str, threads: int) -> None:
        settings = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        command = [python, str(Path(__file__).with_name("peers.py")), name, folder, device, str(threads)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings)

    def request(self, query: str, documents: list[str]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"query": query, "documents": documents}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with an error, see above")
        return json.loads(line)


def checkpoints(model: str, folder: Path) -> dict[str, str]:
    """Write one set of weights into folders for each system: by prompt, and one for transformers 4."""
    resolved = resolve(model)
    loaded = load_model(resolved, torch.bfloat16, torch.device("cpu"))
    encoder = Prompt.preset("prorank", max_length=512).bind(load_tokenizer(resolved))
    save_checkpoint(folder / "prorank", loaded, encoder)
    save_checkpoint(folder / "old", loaded, encoder)
    config = folder / "old" / "tokenizer_config.json"
    plain = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps({k: v for k, v in plain.items() if k not in ("extra_special_tokens", "backend")}))
    model_config = folder / "old" / "config.json"
    values = json.loads(model_config.read_text())
    # transformers 4 reads the base of rotary positions at the top level; without it, it would use another base.
    model_config.write_text(json.dumps(values | {"rope_theta": values["rope_parameters"]["rope_theta"]}))
    return {"mxbai-rerank": str(folder / "old"), "": str(folder / "prorank")}


def tokens_a_pair(folder: str, prompt: str, lists: Any) -> float:
    encoder = Prompt.preset(prompt, max_length=512).bind(load_tokenizer(resolve(folder)))
    counts = [len(p.ids) for q, documents in zip(lists.queries, lists.documents) for p in encoder.encode_many(q, documents)]
    return sum(counts) / len(counts)


def measure(lists: Any, workers: list[Worker], failures: Failures) -> dict[str, dict[str, Any]]:
    """Return seconds and scores of every system for each query, with systems in turn. Systems that fail are left out."""
    results: dict[str, dict[str, Any]] = {w.name: {"seconds": [], "scores": []} for w in workers}
    for worker in workers:  # the first call includes loading and warm-up
        with failures.arm(worker.name):
            first = worker.request(lists.queries[0], lists.documents[0][:20])
            say(f"{lists.name}: {worker.name} is ready after {first['seconds']:.1f} s")
    for number, (query, documents) in enumerate(zip(lists.queries, lists.documents), 1):
        for worker in (one for one in workers if one.name not in failures):
            with failures.arm(worker.name):
                answer = worker.request(query, documents)
                results[worker.name]["seconds"].append(answer["seconds"])
                results[worker.name]["scores"].append(answer["scores"])
        say(f"{lists.name}: query {number} of {len(lists.queries)}")
    return {name: row for name, row in results.items() if name not in failures}


def summary(lists: Any, results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return documents/s, and agreement with fp32 transformers if it was run."""
    rows: dict[str, dict[str, float]] = {}
    for name, one in results.items():
        speeds = [len(d) / s for d, s in zip(lists.documents, one["seconds"])]
        rows[name] = {"documents_per_second": statistics.median(speeds)}
        rows[name]["ndcg@10"] = statistics.mean(map(ndcg, lists.labels, one["scores"]))
        truth = results.get(TRUTH[SYSTEMS[name][0]])
        if truth:
            taus = [kendalltau(a, b).statistic for a, b in zip(one["scores"], truth["scores"])]
            rows[name]["tau"] = statistics.mean(taus)
    return rows


def ratio(lists: Any, results: dict[str, dict[str, Any]], name: str, other: str) -> float:
    """Return the ratio of speeds of `name` and `other`, the median over queries."""
    return statistics.median(b / a for a, b in zip(results[name]["seconds"], results[other]["seconds"]))


def show(name: str, rows: dict[str, dict[str, float]], ratios: dict[str, float], share: dict[str, float]) -> None:
    print(f"\n{name:<34}{'docs/s':>8}{'tokens':>8}{'tau':>8}{'nDCG@10':>9}{'ceiling':>9}")
    for key, row in rows.items():
        tau = f"{row['tau']:.4f}" if "tau" in row else "–"
        part = f"{100 * share[key]:.0f} %" if key in share else "–"
        print(
            f"{SYSTEMS[key][1]:<34}{row['documents_per_second']:>8.2f}{row['tokens']:>8.0f}{tau:>8}{row['ndcg@10']:>9.4f}{part:>9}"
        )
    for key, value in ratios.items():
        print(f"{key}: {value:.2f} times")


PAIRS = (
    *(("ours", name) for name in ("st-bf16", "st-fp32", "mxbai-rerank")),
    *(("ours-compiled", name) for name in ("st-bf16", "mxbai-rerank", "ours")),
    *(("ours-int8", name) for name in ("ours", "ours-compiled")),
    ("ours-mxbai", "mxbai-rerank"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="checkpoint whose weights all systems run")
    parser.add_argument("--data", nargs="*", default=["dl19", "scifact"], help="collections in PRORANK_DATA")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--documents", type=int, default=100, help="documents per query")
    parser.add_argument("--only", nargs="*", choices=list(SYSTEMS), help="systems to run; all by default")
    parser.add_argument("--peers-python", help="python of an environment with mxbai-rerank 0.1.6 and transformers 4.57")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda omit int8 with --only")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    names = options.only or [n for n in SYSTEMS if n != "mxbai-rerank" or options.peers_python]
    if "mxbai-rerank" in names and not options.peers_python:
        raise SystemExit("mxbai-rerank needs --peers-python, see the docstring of this file")
    everything: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        folders = checkpoints(options.model, Path(folder))
        lists = [real_lists(name, options.queries, options.documents) for name in options.data]
        pythons = {"mxbai-rerank": options.peers_python}
        at = options.device, options.threads
        workers = [Worker(n, pythons.get(n) or sys.executable, folders.get(n, folders[""]), *at) for n in names]
        failures = Failures()
        for one in lists:
            results = measure(one, [worker for worker in workers if worker.name not in failures], failures)
            rows = summary(one, results)
            for name, row in rows.items():
                row["tokens"] = tokens_a_pair(folders[""], SYSTEMS[name][0], one)
            ratios = {f"{a} / {b}": ratio(one, results, a, b) for a, b in PAIRS if a in results and b in results}
            everything[one.name] = {"systems": rows, "ratios": ratios}
        for worker in workers:
            with contextlib.suppress(BrokenPipeError):  # of a worker that failed
                worker.process.stdin.close()  # type: ignore[union-attr]
            worker.process.wait()
        for one in lists:
            share = shares(folders[""], one, everything[one.name]["systems"], options.device, options.threads)
            everything[one.name]["ceiling"] = share
            show(one.name, everything[one.name]["systems"], everything[one.name]["ratios"], share["shares"])
            print(f"ceiling: {share['ceiling'] / 1e9:.0f} Gflop/s of the layers' matrix products in bf16")
    print("\n" + json.dumps({**everything, **vars(options), **machine("sentence-transformers")}))
    failures.finish()


def shares(folder: str, lists: Any, rows: dict[str, dict[str, float]], device: str, threads: int) -> dict[str, Any]:
    """Return the ceiling, and the share of it that ours reaches: matrix products per second of the computed tokens, where a shared
    prefix counts once per pack.
    """
    torch.set_num_threads(threads)
    reranker = Reranker(folder, device=device, long_documents="truncate")
    strategy = reranker.strategy
    assert isinstance(strategy, PointwiseStrategy)
    prompts = strategy.encoded_chunks(lists.queries, lists.documents, None, strategy.truncation)
    parts = ChunkScores().parts(prompts)
    packs = [pack for window in windows(parts, reranker.model, None) for pack in window]
    flops = layer_flops(reranker.model) * sum(map(len, packs)) / len(lists)
    top = ceiling(reranker.model)
    names = [n for n in ("ours", "ours-compiled") if n in rows]
    return {"ceiling": top, "shares": {n: rows[n]["documents_per_second"] * flops / top for n in names}}


if __name__ == "__main__":
    main()
