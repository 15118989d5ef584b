"""The parts of `gpu.py`: what each one measures. Rows are handed over one by one, so that a time limit keeps those before it.

A function takes the options of `gpu.py`, with the temporary `folder` of the run, and `add`, which takes a row.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Lists, layer_flops, median_seconds, real_lists, say
from benchmarks.speed import peers
from benchmarks.speed.gpu import PartError
from prorank import Reranker
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.data.examples import Group
from prorank.engine.generation import Sampler, generate, make_generator
from prorank.engine.heads import log_odds
from prorank.engine.packing import Batch
from prorank.engine.sampling import Sampling, StopAt
from prorank.errors import first_line
from prorank.prompts.prompt import Prompt
from prorank.rank.chunk_scores import ChunkScores
from prorank.rank.pointwise import PointwiseStrategy

COLLECTIONS = {"dl19": 75, "scifact": 220}  # words of a random document if there is no data
LARGEST_DIFFERENCE = 1e-4  # of scores in fp32
PEER_BATCHES = (32, 128)
WORDS = ("river", "stone", "winter", "harbour", "music", "garden", "castle", "bread", "letter", "engine", "valley", "school")
Add = Callable[[dict[str, Any]], None]


def prepare(options: argparse.Namespace, add: Add) -> None:
    """Write the checkpoint and the lists that all systems read."""
    resolved = resolve(options.model)
    model = load_model(resolved, torch.float32 if options.device == "cpu" else torch.bfloat16, torch.device("cpu"))
    encoder = Prompt.preset("prorank", max_length=512).bind(load_tokenizer(resolved))
    save_checkpoint(Path(options.folder) / "model", model, encoder)
    for name, words in COLLECTIONS.items():
        lists = _lists(name, words, options)
        counts = [len(p.ids) for q, texts in zip(lists.queries, lists.documents) for p in encoder.encode_many(q, texts)]
        values = {"name": lists.name, "queries": lists.queries, "documents": lists.documents, "tokens": sum(counts)}
        (Path(options.folder) / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
        add({"what": f"{lists.name}, mean tokens of a prompt", "value": sum(counts) / len(counts), "unit": ""})


def _lists(name: str, words: int, options: argparse.Namespace) -> Lists:
    """Return lists of a collection in PRORANK_DATA, or random words."""
    if not options.small and (Path(os.environ.get("PRORANK_DATA", "")) / name).is_dir() and os.environ.get("PRORANK_DATA"):
        return real_lists(name, options.queries, 100)
    rng, (queries, count) = random.Random(name), (2, 6) if options.small else (options.queries, 100)
    text = lambda size: " ".join(rng.choices(WORDS, k=max(1, size)))  # noqa: E731
    size = words // 10 if options.small else words
    texts = [[text(rng.randint(size // 2, size * 3 // 2)) for _ in range(count)] for _ in range(queries)]
    return Lists(f"random words ({name}'s lengths)", [text(6) for _ in range(queries)], texts, [[0] * count] * queries)


def _read_lists(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [json.loads((Path(options.folder) / f"{name}.json").read_text(encoding="utf-8")) for name in COLLECTIONS]


def _ours(options: argparse.Namespace, **how: Any) -> Reranker:
    return Reranker(Path(options.folder) / "model", device=options.device, long_documents="truncate", **how)


def _synchronize(options: argparse.Namespace) -> None:
    if options.device != "cpu":
        torch.cuda.synchronize()


def parity(options: argparse.Namespace, add: Add) -> None:
    """Compare scores with those of transformers in fp32, one prompt after the other. Raises PartError for a large difference."""
    folder, (lists, longer) = str(Path(options.folder) / "model"), _read_lists(options)
    query, texts = lists["queries"][0], lists["documents"][0][:10] + longer["documents"][0][:10]
    exact = np.array(peers.plain(folder, options.device, "float32", 1)(query, texts))
    systems: dict[str, Callable[[], Any]] = {
        "ours, fp32": lambda: _ours(options, dtype="fp32", compile=False).score_lists([query], [texts])[0],
        "transformers, bf16": lambda: peers.plain(folder, options.device, "bfloat16", 32)(query, texts),
        "ours, bf16": lambda: _ours(options, dtype="bf16", compile=False).score_lists([query], [texts])[0],
    }
    largest = {}
    for name, scores in systems.items():
        largest[name] = float(np.abs(np.array(scores()) - exact).max())
        add({"what": f"{name}: largest difference from transformers fp32, {len(texts)} scores", "value": largest[name], "unit": ""})
    attention = _ours(options, dtype="bf16", compile=False).choices.get("attention")
    add({"what": "attention, bf16", "value": str(attention or "that of the CPU"), "unit": ""})
    if not largest["ours, fp32"] <= LARGEST_DIFFERENCE:
        raise PartError(f"scores in fp32 differ by {largest['ours, fp32']:.1e}, more than {LARGEST_DIFFERENCE}")


def product_rate(options: argparse.Namespace) -> tuple[float, str]:
    """Return (floating point operations per second of a large matrix product, its description)."""
    size, dtype = (256, torch.float32) if options.device == "cpu" else (8192, torch.bfloat16)
    a, b = (torch.randn(size, size, device=options.device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        _synchronize(options)

    return 2 * size**3 / median_seconds(product, 15), f"product of {size} x {size}, {str(dtype).removeprefix('torch.')}"


class Scoring:
    """Measures systems on the same lists; one that fails is a row, and `finish` raises PartError for it."""

    def __init__(self, options: argparse.Namespace, add: Add) -> None:
        self.options, self.add, self.lists, self.failed = options, add, _read_lists(options), []
        self.rate, what = product_rate(options)
        add({"what": what, "value": self.rate / 1e12, "unit": "TFLOP/s"})
        self.speeds: dict[tuple[str, str], float] = {}

    def system(self, name: str, load: Callable[[], Any], flops: Callable[[dict[str, Any]], float] | None, rounds: int = 1) -> None:
        """Measure one system.

        Args:
            name: its name.
            load: returns a function that scores (queries, documents).
            flops: operations of the layers' products for all documents of a collection; None for no share.
            rounds: timed passes, of which the median counts.
        """
        try:
            score = load()
            for lists in self.lists:
                queries, documents = lists["queries"], lists["documents"]
                score(queries[:1], documents[:1])
                seconds = []
                for _ in range(rounds):
                    begin = time.perf_counter()
                    score(queries, documents)
                    seconds.append(time.perf_counter() - begin)
                self._row(name, lists, statistics.median(seconds), flops(lists) if flops else None)
        except Exception as error:
            say(f"{name}: {type(error).__name__}: {first_line(error)}")
            self.failed.append(name)
            self.add({"what": f"{name}: failed", "value": f"{type(error).__name__}: {first_line(error)}", "unit": ""})

    def _row(self, name: str, lists: dict[str, Any], seconds: float, flops: float | None) -> None:
        speed = self.speeds[name, lists["name"]] = sum(map(len, lists["documents"])) / seconds
        share = {} if flops is None else {"share": flops / seconds / self.rate}
        self.add({"what": f"{lists['name']}: {name}", "value": speed, "unit": "documents/s", **share})

    def ratio(self, name: str, others: Sequence[str]) -> None:
        """Add the ratio of a system's speed and that of the fastest other one, for each collection."""
        for lists in self.lists:
            speeds = [self.speeds[other, lists["name"]] for other in others if (other, lists["name"]) in self.speeds]
            if speeds and (name, lists["name"]) in self.speeds:
                what = f"{lists['name']}: {name} / fastest of {others[0].split(',')[0]}"
                self.add({"what": what, "value": self.speeds[name, lists["name"]] / max(speeds), "unit": "times"})

    def finish(self) -> None:
        """Raise PartError if a system failed."""
        if self.failed:
            raise PartError(f"failed: {', '.join(self.failed)}")


def scoring(options: argparse.Namespace, add: Add) -> None:
    """Measure documents per second of ours, plain and compiled, of its host and device alone, and of the peers."""
    measured, bf16, folder = Scoring(options, add), {"dtype": "bf16"}, str(Path(options.folder) / "model")
    rounds = 1 if options.small else 3
    reranker = _ours(options, **bf16, compile=False)
    a_token = layer_flops(reranker.model)
    computed = lambda lists: a_token * sum(b.inputs["input_ids"].numel() for b in _batches(reranker, lists))  # noqa: E731
    whole = lambda lists: a_token * lists["tokens"]  # noqa: E731
    measured.system("ours", lambda: reranker.score_lists, computed, rounds)
    measured.system("ours, host alone", lambda: _host(reranker), None, rounds)
    measured.system("ours, device alone", lambda: _device(reranker, options), computed, rounds)
    if options.device != "cpu":
        measured.system("ours, compiled", lambda: _ours(options, **bf16, compile=True).score_lists, computed, rounds)
    st = [f"sentence-transformers, bf16, batches of {size}" for size in PEER_BATCHES]
    for name, size in zip(st, PEER_BATCHES):
        measured.system(name, lambda size=size: _cross_encoder(folder, options, size), whole)
    measured.system("transformers, bf16, batches of 32", lambda: _plain(folder, options), whole)
    for name in ("ours", "ours, compiled"):
        measured.ratio(name, st)
    measured.finish()


def _batches(reranker: Reranker, lists: dict[str, Any]) -> list[Batch]:
    strategy = reranker.strategy
    assert isinstance(strategy, PointwiseStrategy)
    prompts = strategy.encoded_chunks(lists["queries"], lists["documents"], None, strategy.truncation)
    with closing(reranker.runtime.batches(ChunkScores().parts(prompts))) as batches:
        return list(batches)


def _host(reranker: Reranker) -> Callable[..., Any]:
    """Return a function that makes all batches and computes nothing."""
    return lambda queries, documents: _batches(reranker, {"queries": queries, "documents": documents})


def _device(reranker: Reranker, options: argparse.Namespace) -> Callable[..., Any]:
    """Return a function that computes batches which are on the device already, except in its first call for them."""
    strategy, known = reranker.strategy, dict[int, list[Batch]]()
    assert isinstance(strategy, PointwiseStrategy)

    @torch.inference_mode()
    def score(queries: list[str], documents: list[list[str]]) -> Any:
        batches = known.setdefault(id(documents), [])
        if not batches:
            batches += _batches(reranker, {"queries": queries, "documents": documents})
        scores = [log_odds(reranker.runtime.hidden(batch), strategy.rows, strategy.bias) for batch in batches]
        return torch.cat(scores).tolist()

    return score


def _cross_encoder(folder: str, options: argparse.Namespace, size: int) -> Callable[..., Any]:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device=options.device, model_kwargs={"dtype": torch.bfloat16})

    def score(queries: list[str], documents: list[list[str]]) -> Any:
        pairs = [(query, text) for query, texts in zip(queries, documents) for text in texts]
        return model.predict(pairs, batch_size=size, show_progress_bar=False)

    return score


def _plain(folder: str, options: argparse.Namespace) -> Callable[..., Any]:
    score = peers.plain(folder, options.device, "bfloat16", 32)
    return lambda queries, documents: [score(query, texts) for query, texts in zip(queries, documents)]


def training(options: argparse.Namespace, add: Add) -> None:
    """Measure steps of stage `score`: the padded step with all logits, ours, and ours compiled, and compare their losses."""
    from benchmarks.speed.train_speed import Arm

    size, batch, steps = (3, 2, 3) if options.small else (6, 16, 10)
    lists = _read_lists(options)[0]
    rows = [(q, t[i : i + size]) for q, t in zip(lists["queries"], lists["documents"]) for i in range(0, len(t) - size + 1, size)]
    groups = [Group(query, tuple(texts), (1.0, *[0.0] * (size - 1))) for query, texts in rows]
    how = argparse.Namespace(
        model=str(Path(options.folder) / "model"), batch=batch, device=options.device, dtype="fp32" if options.small else "bf16",
        prompt="prorank", length=192, list_size=size, seed=0,
    )  # fmt: skip
    kinds: dict[str, dict[str, bool]] = {"padded step, all logits": {"baseline_step": True}, "ours": {}}
    if options.device != "cpu":
        kinds["ours, compiled"] = {"compile": True}
    losses: dict[str, list[float]] = {}
    for name, settings in kinds.items():
        arm = Arm(name, how, groups, **settings)
        for number in range(steps):
            arm.step(number)
        losses[name] = arm.losses
        add({"what": name, "value": batch * size / statistics.median(arm.seconds[2:]), "unit": "documents/s"})
        if name != "padded step, all logits":
            first = losses["padded step, all logits"][0]
            add({"what": f"{name}: first loss minus that of the padded step", "value": arm.losses[0] - first, "unit": ""})
        del arm


def generation(options: argparse.Namespace, add: Add) -> None:
    """Measure tokens per second of sampled thoughts: ours, and `generate` of transformers on the same prompts."""
    prompts, samples, length = (2, 2, 4) if options.small else (32, 4, 128)
    resolved = resolve(Path(options.folder) / "model")
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model, tokenizer = load_model(resolved, dtype, torch.device(options.device)).eval(), load_tokenizer(resolved)
    encoder, lists = Prompt.preset("rerank-r0").bind(tokenizer), _read_lists(options)[0]
    encoded = encoder.encode_many(lists["queries"][0], lists["documents"][0][:prompts])
    sampler = Sampler(make_generator(model, None), encoder, Sampling(1.0, max_tokens=length), StopAt.END_TOKEN)

    def ours() -> int:
        keys = [[f"{i}/{k}" for k in range(samples)] for i in range(len(encoded))]
        return sum(len(row.ids) for rows in generate(sampler, encoded, keys) for row in rows)

    @torch.inference_mode()
    def transformers() -> int:
        inputs = tokenizer.pad({"input_ids": [p.ids for p in encoded]}, return_tensors="pt").to(options.device)
        options_of = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": tokenizer.pad_token_id}
        out = model.generate(**inputs, max_new_tokens=length, num_return_sequences=samples, **options_of)
        new = out[:, inputs["input_ids"].shape[1] :]
        ended = (new == tokenizer.eos_token_id).int().cumsum(1)
        return int(((ended == 0) | ((ended == 1) & (new == tokenizer.eos_token_id))).sum())

    for name, run in (("ours", ours), ("transformers generate", transformers)):
        run()
        begin = time.perf_counter()
        tokens = run()
        _synchronize(options)
        what = f"{name}, {len(encoded)} prompts x {samples} samples of at most {length} tokens"
        add({"what": what, "value": tokens / (time.perf_counter() - begin), "unit": "tokens/s"})


FUNCTIONS = {"prepare": prepare, "parity": parity, "scoring": scoring, "training": training, "generation": generation}
