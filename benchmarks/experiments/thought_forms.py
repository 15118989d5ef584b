"""Do thoughts help? The same weights behind their own thought, none, another pair's, one by rule, and the extracted sentence alone.

    python -m benchmarks.experiments.thought_forms --models runs/r0-judge --data data/thoughts/held-out.jsonl
    PRORANK_DATA=... python -m benchmarks.experiments.thought_forms --models runs/r0-judge --lists dl19 dl20 scifact --limit 20

For pairs it prints the balanced accuracy (yes if the log-odds are above 0) with that of each label, the area under the curve,
tokens and seconds per document and the paired test against the own thought; for lists nDCG@10 relative to their best order.
"Verbatim" is the share of own thoughts that quote the document word for word, "terms" that of those that name the terms of their
quotation rightly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, ndcg, real_lists, say
from prorank import Reranker
from prorank.checkpoints.default_model import DEFAULT
from prorank.data.formats import read_groups
from prorank.data.quoting_thoughts import best_sentences, quoting_thought, term_sentence
from prorank.evaluate.significance import randomisation_test
from prorank.rank.thinking import ThinkingStrategy

FORMS = ("own", "empty", "shuffled", "by rule", "sentence")


@dataclass
class Questions:
    """Queries with documents and labels, in the form of pairs or of lists.

    Attributes:
        name: name in the output.
        queries, texts, labels: one entry per query.
    """

    name: str
    queries: list[str]
    texts: list[list[str]]
    labels: list[list[int]]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All (query, document), in order."""
        return [(query, text) for query, row in zip(self.queries, self.texts) for text in row]

    def rows(self, flat: Sequence[Any]) -> list[list[Any]]:
        """Divide one value per pair into the queries' rows."""
        values = iter(flat)
        return [[next(values) for _ in row] for row in self.texts]


@dataclass
class Form:
    """Scores behind one form of thought: log-odds [pairs], mean tokens of a thought, seconds per document."""

    scores: np.ndarray
    tokens: float
    seconds: float


def scores_behind(strategy: ThinkingStrategy, questions: Questions, thoughts: Sequence[str]) -> np.ndarray:
    """Return log-odds [pairs] behind these thoughts, with the same tokens around them as in training."""
    encoder, lists = strategy.encoder, []
    for query, texts, row in zip(questions.queries, questions.texts, questions.rows(thoughts)):
        prompts = encoder.encode_many(query, list(texts))
        tails = [encoder.completion(thought, 1, encoder.prompt.max_think_tokens)[0] for thought in row]
        behind = len(encoder.end) + 1  # the answer and what follows it
        lists.append(([replace(p, ids=p.ids + tail[:-behind]) for p, tail in zip(prompts, tails)], [""] * len(row)))
    return np.concatenate(strategy.without_thought.score_encoded(lists).scores)


def shuffled(thoughts: Sequence[str], seed: int = 0) -> list[str]:
    """Return the thoughts in an order in which each stands at another pair."""
    order = Random(f"shuffled/{seed}").sample(range(len(thoughts)), len(thoughts))
    out = [""] * len(thoughts)
    for place, source in zip(order, [*order[1:], order[0]]):
        out[place] = thoughts[source]
    return out


def is_verbatim(document: str, thought: str) -> bool:
    """Whether a thought quotes the document word for word."""
    words = " ".join(_quotation(thought).removesuffix(" …").split())
    return bool(words) and words in " ".join(document.split())


def names_its_terms(query: str, thought: str) -> bool:
    """Whether a thought names exactly the query terms that its quotation has and lacks."""
    quotation = _quotation(thought)
    return thought == f'"{quotation}" {term_sentence(query, quotation)}'


def _quotation(thought: str) -> str:
    return thought[1:].rpartition('" It has ')[0]


def forms_of(model: str, questions: Questions, extracted: list[str], wanted: Sequence[str]) -> tuple[dict[str, Form], list[str]]:
    """Return (scores by form, own thoughts) of a thinking checkpoint."""
    reranker = Reranker(model)
    strategy = reranker.strategy
    assert isinstance(strategy, ThinkingStrategy), f"{model} does not think"
    begin = time.perf_counter()
    scored = strategy.score(questions.queries, questions.texts)
    own = [thought.text for row in scored.thoughts for thought in row]
    count, cost = len(own), reranker.cost
    forms = {"own": Form(np.concatenate(scored.scores), cost.generated_tokens / count, (time.perf_counter() - begin) / count)}
    rule = [quoting_thought(query, sentence) for (query, _), sentence in zip(questions.pairs, extracted)]
    sentences = [thought.rpartition(" It has ")[0] for thought in rule]
    given = {"empty": [""] * count, "shuffled": shuffled(own), "by rule": rule, "sentence": sentences}
    for name in (name for name in wanted if name != "own"):
        begin = time.perf_counter()
        scores = scores_behind(strategy, questions, given[name])
        tokens = statistics.fmean(map(len, reranker.tokenizer(given[name])["input_ids"]))
        forms[name] = Form(scores, tokens, (time.perf_counter() - begin) / count)
    return forms, own


def pair_figures(form: Form, labels: np.ndarray) -> dict[str, float]:
    """Return balanced accuracy, accuracy by label, and area under the curve."""
    yes, no = form.scores[labels > 0], form.scores[labels == 0]
    above = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    of_yes, of_no = float((yes > 0).mean()), float((no <= 0).mean())
    return {"accuracy": (of_yes + of_no) / 2, "yes": of_yes, "no": of_no, "auc": float(above)}


def list_figures(form: Form, questions: Questions) -> tuple[dict[str, float], list[float]]:
    """Return (mean nDCG@10, nDCG@10 of each query)."""
    values = [ndcg(labels, row) for labels, row in zip(questions.labels, questions.rows(form.scores))]
    return {"ndcg@10": statistics.fmean(values)}, values


def report(model: str, questions: Questions, forms: dict[str, Form], own: list[str], pairs: bool) -> dict[str, Any]:
    """Print the table of one model and one set, and return its values."""
    labels, table, base = np.concatenate(questions.labels), {}, []
    for name, form in forms.items():
        if pairs:
            figures, values = pair_figures(form, labels), list(((form.scores > 0) == (labels > 0)).astype(float))
        else:
            figures, values = list_figures(form, questions)
        base = base or values
        figures |= {"tokens": form.tokens, "seconds": form.seconds}
        table[name] = figures | {"p": None if values is base else randomisation_test(values, base)}
        shown = "  ".join(f"{key} {value:.4f}" for key, value in table[name].items() if value is not None)
        print(f"{model[-24:]:<25}{questions.name:<10}{name:<10}{shown}", flush=True)
    if own:
        both = list(zip(questions.pairs, own))
        table["own"]["verbatim"] = statistics.fmean(is_verbatim(document, thought) for (_, document), thought in both)
        table["own"]["terms"] = statistics.fmean(names_its_terms(query, thought) for (query, _), thought in both)
        shown = f"verbatim {table['own']['verbatim']:.3f}, terms {table['own']['terms']:.3f}"
        print(f"{model[-24:]:<25}{questions.name:<10}{shown}; the first: {own[0]}")
    return table


def questions_of(options: argparse.Namespace) -> list[Questions]:
    """Return the pairs, or the lists, of the command line."""
    if options.data:
        groups = read_groups(options.data)[: options.limit]
        labels = [[int(label > 0) for label in g.labels] for g in groups]
        return [Questions("pairs", [g.query for g in groups], [list(g.documents) for g in groups], labels)]
    lists = [real_lists(name, options.limit, options.top_k) for name in options.lists]
    return [Questions(one.name, one.queries, one.documents, one.labels) for one in lists]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="*", default=[], help="thinking checkpoints; the default model is always measured, directly"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--data", help="labelled pairs that were not trained on")
    kind.add_argument("--lists", nargs="+", help="collections in PRORANK_DATA with a first stage")
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--limit", type=int, help="queries of each set")
    parser.add_argument("--top-k", type=int, default=20, help="documents of a list")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    direct = Reranker(DEFAULT, long_documents="truncate")
    for questions in questions_of(options):
        say(f"{questions.name}: {len(questions.pairs)} pairs")
        begin = time.perf_counter()
        scores = np.concatenate(direct.score_lists(questions.queries, questions.texts))
        form = Form(scores, 0.0, (time.perf_counter() - begin) / len(scores))
        results[f"{DEFAULT}, {questions.name}"] = report(DEFAULT, questions, {"direct": form}, [], bool(options.data))
        extracted = best_sentences(questions.pairs)
        for model in options.models:
            forms, own = forms_of(model, questions, extracted, options.forms)
            results[f"{model}, {questions.name}"] = report(model, questions, forms, own, bool(options.data))
    print(json.dumps({"thought_forms": results, **vars(options), **machine()}))


if __name__ == "__main__":
    main()
