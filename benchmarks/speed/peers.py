"""The systems that `score_vs_peers.py` compares, each run by this file in a separate process.

A system is imported only when it runs, so the environment needs no other system.

    python -m benchmarks.speed.peers NAME CHECKPOINT DEVICE THREADS    # then a line of JSON (query, documents) for each answer
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Score = Callable[[str, list[str]], Any]


def plain(folder: str, device: str, dtype: str, batch: int) -> Score:
    """Return transformers' scores as in its documentation: render, pad on the left, use the logits of the last position."""
    import torch
    from transformers import AutoModelForCausalLM

    from prorank.checkpoints.loading import load_tokenizer
    from prorank.checkpoints.resolve import prompt_of, resolve

    resolved = resolve(folder)
    tokenizer = load_tokenizer(resolved)
    encoder = prompt_of(resolved).bind(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    no, yes = encoder.answer_ids

    @torch.inference_mode()
    def score(query: str, documents: list[str]) -> Any:
        ids = [p.ids for p in encoder.encode_many(query, documents)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        out = [0.0] * len(ids)
        for at in range(0, len(ids), batch):
            chunk = order[at : at + batch]
            inputs = tokenizer.pad({"input_ids": [ids[i] for i in chunk]}, return_tensors="pt").to(device)
            logits = model(**inputs, logits_to_keep=1).logits[:, -1].float()
            for i, value in zip(chunk, (logits[:, yes] - logits[:, no]).tolist()):
                out[i] = value
        return out

    return score


def cross_encoder(folder: str, device: str, dtype: str) -> Score:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device=device, model_kwargs={"dtype": getattr(torch, dtype)})
    return lambda query, documents: model.predict([(query, d) for d in documents], batch_size=32, show_progress_bar=False)


def ours(folder: str, device: str, prompt: str | None = None, **more: Any) -> Score:
    from prorank import Reranker

    reranker = Reranker(folder, device=device, prompt=prompt, long_documents="truncate", **more)
    return lambda query, documents: reranker.score_lists([query], [documents])[0]


def mxbai(folder: str, device: str) -> Score:
    from mxbai_rerank import MxbaiRerankV2

    model = MxbaiRerankV2(folder, device=device, max_length=512)

    def score(query: str, documents: list[str]) -> Any:
        results = model.rank(query, documents, top_k=len(documents), sort=False, return_documents=False)
        return [hit.score for hit in sorted(results, key=lambda hit: hit.index)]

    return score


def make(name: str, folder: str, device: str) -> Score:
    return {
        "fp32": lambda: plain(folder, device, "float32", 1),
        "bf16": lambda: plain(folder, device, "bfloat16", 32),
        "st-fp32": lambda: cross_encoder(folder, device, "float32"),
        "st-bf16": lambda: cross_encoder(folder, device, "bfloat16"),
        "ours": lambda: ours(folder, device),
        "ours-compiled": lambda: ours(folder, device, compile=True),
        "ours-int8": lambda: ours(folder, device, dtype="int8", compile=True),
        "mxbai-rerank": lambda: mxbai(folder, device),
        "ours-mxbai": lambda: ours(folder, device, prompt="mxbai", max_length=512),
    }[name]()


def work(name: str, folder: str, device: str, threads: int) -> None:
    """Answer lines of JSON (query, documents) on stdin with lines (seconds, scores) on stdout."""
    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    torch.set_num_threads(threads)
    score = make(name, folder, device)
    for line in sys.stdin:
        task = json.loads(line)
        begin = time.perf_counter()
        results = score(task["query"], task["documents"])
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "scores": [float(x) for x in results]}), file=answers, flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:4], int(sys.argv[4]))
