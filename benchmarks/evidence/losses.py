"""List the thirty lists where a model loses most against the first stage, and count the groups they belong to.

Each group's share of the losses is shown beside its share of all lists; only a difference between the two is informative.

    PRORANK_DATA=... python -m benchmarks.evidence.losses --model runs/smollm2-135m/score --out runs/losses
    PRORANK_DATA=... python -m benchmarks.evidence.losses --model runs/smollm2-135m/score --out runs/losses --show   # to read them

Prints query ids and figures, no text of a collection (`--show` does, for reading only), and writes them to `losses.json`. Scores
are kept in `--out`. The groups are those of `loss_groups.py`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.common import loader, machine
from benchmarks.evidence.loss_groups import OF_PAIR, OF_QUERY, Facts, counts, groups_of, pair_of_loss
from benchmarks.protocol import ndcg_of, parsed, scored, tasks_of
from prorank.errors import extra
from prorank.evaluate.candidates import Task
from prorank.evaluate.scoring import Scored, reranked
from prorank.utils.files import atomic_file


@dataclass(frozen=True)
class Case:
    """A list: its figures, and the groups it is in; `pair`: ids of the documents of its loss, if there is one."""

    list: str
    query: str
    first: float
    model: float
    groups: list[str]
    pair: tuple[str, str] | None

    @property
    def change(self) -> float:
        return self.model - self.first


def terms_of(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """Stemmed words of each text without stop words, as the first stage reads them."""
    with extra("eval"):
        import bm25s
        import Stemmer
    unique = list(dict.fromkeys(texts))
    rows = bm25s.tokenize(unique, stopwords="english", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False)
    return {text: frozenset(row) for text, row in zip(unique, rows)}


def shown_of(prompt: Any, query: str, document: str) -> str:
    """What of a document a prompt shows."""
    one = prompt.encode(query, document)
    return prompt.tokenizer.decode(one.ids[one.document_start : one.document_end]) if one.document_cut else document


def cases_of(task: Task, result: Scored, model: Any, top_k: int) -> list[Case]:
    """Every query of a task as a case."""
    before, after, orders = ndcg_of(task), ndcg_of(task, result, top_k), reranked(task, result, top_k)
    return [_case(task, result, model, query, orders[query], (before[query], after[query])) for query in after if query in orders]


def _case(task: Task, result: Scored, model: Any, query: str, now: list[str], values: tuple[float, float]) -> Case:
    labels, first = task.qrels[query], task.ranking[query]
    pair = pair_of_loss(first, now, labels)
    if pair and not all(d in result.heads[query] for d in pair):  # one without a text, or below those that were ordered
        pair = None
    text, heads = task.collection.queries[query], result.heads[query]
    texts = {d: task.text(d) for d in heads}
    more: dict[str, Any] = {}
    if pair:
        scores = dict(zip(heads, result.scores[query]))
        lost, passed = pair
        more = {"lost": texts[lost], "seen": shown_of(model.encoder, text, texts[lost]), "passed": texts[passed]}
        more |= {"lead": scores[passed] - scores[lost], "label": labels.get(passed)}
    terms = terms_of([text, more.get("seen", ""), *texts.values()])
    spread = Counter(term for one in texts.values() for term in terms[one])
    facts = Facts(text, values[0], terms, spread, **more)
    return Case(task.name, query, *values, groups_of(facts), pair)


def tables(worst: Sequence[Case], every: Sequence[Case]) -> None:
    """Print the lists, then the groups among them and among all."""
    print("| list | query | first stage | model | change | groups |\n|---|---|---|---|---|---|")
    for case in worst:
        groups = "; ".join(case.groups)
        print(f"| {case.list} | {case.query} | {case.first:.4f} | {case.model:.4f} | {case.change:+.4f} | {groups} |")
    few, all_ = (counts([(case.groups, case.pair is not None) for case in cases]) for cases in (worst, every))
    print("\n| group | losses | share | all lists | share |\n|---|---|---|---|---|")
    for name in (*OF_QUERY, *OF_PAIR):
        among = "lists" if name in OF_QUERY else "pairs"
        cells = " | ".join(f"{tally[name]} of {tally[among]} | {tally[name] / max(1, tally[among]):.0%}" for tally in (few, all_))
        print(f"| {name} | {cells} |")


def read_out(cases: Sequence[Case], tasks: dict[str, Task]) -> None:
    """Print the texts of the cases, for reading."""
    for case in cases:
        task = tasks[case.list]
        print(f"\n{case.list} {case.query}: {case.first:.4f} to {case.model:.4f}: {task.collection.queries[case.query]}")
        for kind, document in zip(("lost", "passed by"), case.pair or ()):
            print(f"  {kind} {document}: {task.text(document)[:400]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=30, help="lists, those of the largest loss")
    parser.add_argument("--show", action="store_true", help="print texts, too")
    options = parsed(parser, "runs/losses")
    model = loader("model", options.model, options.length, "echo")()
    tasks = tasks_of(options.lists, (), options.top_k, options.limit)["lists"]
    every = []
    for task in tasks:
        every += cases_of(task, scored(task, model, options.out / "lists", options.top_k), model, options.top_k)
    losses = sorted((case for case in every if case.change < 0), key=lambda case: case.change)
    worst = losses[: options.count]
    print(f"{len(losses)} of {len(every)} lists are worse than the first stage; the {len(worst)} of the largest loss:\n")
    tables(worst, every)
    if options.show:
        read_out(worst, {task.name: task for task in tasks})
    result = {"losses": [asdict(case) for case in worst], "lists": len(every), "worse": len(losses), **machine()}
    with atomic_file(options.out / "losses.json") as handle:
        json.dump(result, handle, indent=1)


if __name__ == "__main__":
    main()
