"""How to read documents that are longer than what a model was trained on: whole, their beginning, or in overlapping chunks.

Two dev sets: `joined`, judged passages of the dev sets among passages of other queries, about 600 words in all, with the judged one
at the start, in the middle or at the end; and mediqa's train answers (median 190 words, a third above 300). Prints nDCG@10 for each
way of reading, chunk length, aggregate of the chunks' scores, and position, and the tokens that a query costs.

    python -m benchmarks.experiments.long_documents --model prorank-smollm2-135m --out runs/long
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.common import data_folder, say
from benchmarks.evidence.recipe_lists import pool_groups
from benchmarks.protocol import DEV, parsed
from prorank.checkpoints.resolve import prompt_of, resolve
from prorank.data.beir import read_beir
from prorank.data.bm25 import score_lists
from prorank.data.examples import Group
from prorank.evaluate.measures import ndcg_of
from prorank.prompts.prompt import Prompt
from prorank.prompts.truncation import MAX_CHUNKS, Truncation
from prorank.reranker import Reranker
from prorank.utils.files import atomic_file

PLACES = ("start", "middle", "end")
WORDS = 600  # of a joined document
CANDIDATES = 6  # of a joined list
WHOLE = 1024  # maximum tokens of a prompt, but for the row "truncated"
Scores = list[list[list[float]]]  # list -> document -> chunk


@dataclass(frozen=True)
class Reading:
    """One way of reading: the maximum length of a prompt and of a chunk (None: no chunks)."""

    name: str
    max_length: int
    chunk_length: int | None = None

    @property
    def truncation(self) -> Truncation:
        """The chunks of a document."""
        return Truncation(max_chunks=MAX_CHUNKS) if self.chunk_length else Truncation()


READINGS = (
    *(Reading(f"chunks of {n}", WHOLE, n) for n in (256, 320, 128)),
    Reading("truncated at 384", 384),
    Reading(f"whole, up to {WHOLE}", WHOLE),
)
AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {
    "best": lambda row: float(row.max()),
    "mean of the best two": lambda row: float(np.sort(row)[-2:].mean()),
    "log-sum-exp": lambda row: float(np.logaddexp.reduce(row)),
    "log-mean-exp": lambda row: float(np.logaddexp.reduce(row) - np.log(len(row))),
    "best + half of the first": lambda row: float(row.max() + 0.5 * row[0]),
    "mean": lambda row: float(row.mean()),
}


def joined(queries: int, place: str) -> list[Group]:
    """Return lists of joined documents; only the position of the judged passage differs between places."""
    made = []
    for name in DEV:
        groups = [group for group in pool_groups(read_beir(data_folder() / name, "dev")) if len(group.documents) >= CANDIDATES]
        groups = Random(f"long/{name}").sample(groups, min(queries, len(groups)))
        for group in groups:
            others = [text for other in groups if other is not group for text in other.documents]
            made.append(_joined(_few(group), others, place))
    return made


def _few(group: Group) -> Group:
    """Return a group with CANDIDATES documents, half of them relevant where there are so many."""
    draw = Random(f"few/{group.query_id}")
    sides = [[i for i, label in enumerate(group.labels) if (label > 0) == relevant] for relevant in (True, False)]
    count = min(len(sides[0]), max(CANDIDATES // 2, CANDIDATES - len(sides[1])))
    chosen = draw.sample(sides[0], count) + draw.sample(sides[1], min(len(sides[1]), CANDIDATES - count))
    chosen = draw.sample(chosen, len(chosen))
    return replace(group, documents=tuple(group.documents[i] for i in chosen), labels=tuple(group.labels[i] for i in chosen))


def _joined(group: Group, others: Sequence[str], place: str) -> Group:
    texts = []
    for number, document in enumerate(group.documents):
        draw, around = Random(f"around/{group.query_id}/{number}"), []
        while sum(len(text.split()) for text in around) < WORDS - len(document.split()):
            around.append(draw.choice(others))
        at = {"start": 0, "middle": len(around) // 2, "end": len(around)}[place]
        texts.append("\n".join([*around[:at], document, *around[at:]]))
    return replace(group, documents=tuple(texts))


def mediqa(queries: int) -> list[Group]:
    """Return judged pools of mediqa's train part; labels 0 and 1 both mean a wrong answer."""
    collection = read_beir(data_folder() / "mediqa", "train")
    qrels = {query: {d: max(0, label - 1) for d, label in row.items()} for query, row in collection.qrels.items()}
    groups = pool_groups(replace(collection, qrels=qrels))
    return Random("long/mediqa").sample(groups, min(queries, len(groups)))


def chunk_scores(model: Reranker, groups: Sequence[Group], truncation: Truncation, keep: Path) -> tuple[Scores, int]:
    """Return the scores of every chunk, and the number of tokens; from the file `keep` if it exists."""
    if keep.is_file():
        content = json.loads(keep.read_text(encoding="utf-8"))
        return content["scores"], content["tokens"]
    scores: Scores = []
    tokens = 0
    for group in groups:
        documents = model.encoder.encode_chunks(group.query, list(group.documents), truncation=truncation)
        prompts = [prompt for chunks in documents for prompt in chunks]
        tokens += sum(len(prompt.ids) for prompt in prompts)
        flat = iter(model.score_encoded([(prompts, [str(i) for i in range(len(prompts))])]).scores[0])
        scores.append([[float(next(flat)) for _ in chunks] for chunks in documents])
    with atomic_file(keep) as handle:
        json.dump({"scores": scores, "tokens": tokens}, handle)
    return scores, tokens


def bm25(groups: Sequence[Group]) -> list[np.ndarray]:
    """Score with BM25, whose statistics are those of all documents."""
    return score_lists([group.query for group in groups], [group.documents for group in groups])


def row(name: str, values: Sequence[float], tokens: float | None) -> str:
    """Return a line of the table."""
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {'' if tokens is None else f'{tokens:,.0f}'} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="prorank-smollm2-135m")
    parser.add_argument("--queries", type=int, default=12, help="of each of the three dev sets in `joined`")
    parser.add_argument("--mediqa", type=int, default=60, help="queries of mediqa")
    names = [reading.name for reading in READINGS]
    parser.add_argument("--readings", nargs="*", choices=names, default=names, help="ways of reading")
    options = parsed(parser, "runs/long", sets=False)
    (options.out / "chunks").mkdir(parents=True, exist_ok=True)
    sets = {place: joined(options.queries, place) for place in PLACES} | {"mediqa": mediqa(options.mediqa)}
    lines = [
        row(
            "BM25",
            [_ndcg(groups, bm25(groups)) for groups in sets.values()],
            None,
        )
    ]
    for reading in (reading for reading in READINGS if reading.name in options.readings):
        lines += _rows(reading, sets, options)
        say(f"{reading.name}: done")
    print(f"| read | {' | '.join(sets)} | tokens a query |\n|---|{'---|' * (len(sets) + 1)}")
    print("\n".join(lines))


def _rows(reading: Reading, sets: dict[str, list[Group]], options: Any) -> list[str]:
    with torch.inference_mode():
        changes = {"max_length": reading.max_length, "chunk_length": reading.chunk_length}
        prompt = Prompt.of(prompt_of(resolve(options.model)), **changes)
        model = Reranker(options.model, prompt=prompt, compile=False)
        found = {}
        for name, groups in sets.items():
            keep = options.out / "chunks" / f"{name}.{reading.name.replace(' ', '-')}.json"
            found[name] = chunk_scores(model, groups, reading.truncation, keep)
    tokens = sum(count for _, count in found.values()) / sum(len(groups) for groups in sets.values())
    lines = []
    for title, aggregate in list(AGGREGATES.items())[: None if reading.chunk_length else 1]:
        values = []
        for name, groups in sets.items():
            values.append(_ndcg(groups, [np.array([aggregate(np.array(chunks)) for chunks in one]) for one in found[name][0]]))
        lines.append(row(reading.name + (f", {title}" if reading.chunk_length else ""), values, tokens))
    return lines


def _ndcg(groups: Sequence[Group], scores: Sequence[np.ndarray]) -> float:
    return float(ndcg_of([group.labels for group in groups], scores).mean())


if __name__ == "__main__":
    main()
