"""Evaluate: first stage and models on datasets, by standard measures, with significance, run files and a report.

Every system of a dataset is measured on the same queries and the same candidates, so differences are
paired.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.trec import write_run
from ..errors import ConfigError
from ..utils.files import check_folder
from .calibration_figures import note, probabilities_of
from .candidates import Options, Task, prepare
from .diagnostics import tie_share
from .environment import environment
from .gains import LINEAR, check_gain
from .measures import MAIN, Ranking, means, measure, rank_scores
from .report_files import write
from .results import ANSWERS, FIRST, MODEL, Comparison, Evaluation, Row, answers_name
from .scoring import Scored, reranked, score
from .significance import bootstrap_ci, holm, randomisation_test

Progress = Callable[[str, int, int], None]
FLIPS, LEVEL = 10_000, 0.95


def evaluate(
    datasets: Sequence[str | Path],
    models: Sequence[Any] = (),
    run: str | Path | None = None,
    qrels: str | Path | None = None,
    top_k: int = 100,
    split: str = "test",
    min_rel: int = 1,
    pool: bool = False,
    exclude: str | Path | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    only_run_queries: bool = False,
    sample: int = 128,
    command: str | None = None,
    gain: str = LINEAR,
) -> Evaluation:
    """Measure the first stage, and each model's order of its first `top_k` candidates.

    Args:
        datasets: BEIR folders, or ir_datasets:NAME.
        models: Rerankers, `Scorer`s, or functions without arguments that return one (so that only one is in memory).
            Empty: the first stage alone.
        run: first stage: a TREC run; "protocol" for each folder's protocol.run.txt, scored with its qrels/full.txt and
            qrels/exclude.txt where there are such; BM25 (k1 0.9, b 0.4) over the corpus by default.
        qrels: judgements in place of qrels/{split}.tsv.
        top_k: candidates a model reorders; the others follow in first-stage order.
        split: of qrels/.
        min_rel: least label that is relevant in MRR, MAP and recall.
        pool: candidates are each query's own judged documents, in BM25 order.
        exclude: (query id, document id) pairs dropped from judgements and candidates.
        out: folder for {dataset}.{system}.run, results.json, report.html and scores/ (raw scores, used again by a later
            call where model and texts are the same).
        limit: only so many queries, the same for one seed; for a quick look.
        seed: of sampling, tests and intervals.
        progress: called with (what, done, total) in documents.
        only_run_queries: average over the run's queries only, as a protocol list always does.
        sample: pairs a model for format rate, effective rank and mean cosine; 0 for none.
        command: what the report names as its origin; the process's own command line by default.
        gain: of a label in nDCG: "linear", the label, or "exponential", 2^label - 1; a run's key `gain` is the same setting.

    File names are looked for in each dataset's folder first.

    Raises:
        DataError, ConfigError: bad input, found before any model is loaded. ModelError: scores that are not finite.
    """
    if not datasets:
        raise ConfigError("name at least one dataset folder")
    if top_k < 1:
        raise ConfigError(f"--top-k must be at least 1, not {top_k}")
    if min_rel < 1:
        raise ConfigError(f"--min-rel must be at least 1, not {min_rel}")
    check_gain(gain, "--gain")
    given = {"run": run, "qrels": qrels, "exclude": exclude}
    options = Options(
        **{k: None if v is None else str(v) for k, v in given.items()},
        split=split,
        min_rel=min_rel,
        top_k=top_k,
        pool=pool,
        limit=limit,
        only_run_queries=only_run_queries,
        seed=seed,
        gain=gain,
    )
    out = Path(out) if out else None
    if out and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, expected a folder")
    if out:
        check_folder(out)
    tasks = _named([prepare(d, options, alone=len(datasets) == 1) for d in datasets])
    result = Evaluation(settings=asdict(options) | {"sample": sample, "datasets": [t.name for t in tasks]})
    bench = _Bench(result, options, out)
    for dataset, task in zip(datasets, tasks):
        result.note_name(str(dataset), task.name)
        if run:
            result.note_name(str(run), task.first)
        bench.first(task)
    for model in _loaded(models, [t.first for t in tasks]):
        result.note_name(model.whole_name, model.name)
        for task in tasks:
            documents = sum(len(task.head(q, top_k)[0]) for q in task.queries)
            heard = _counter(progress, f"{task.name} · {model.name}", documents)
            keep = out / "scores" / f"{task.name}.{slug(model.name)}.json" if out else None
            bench.model(task, model, score(model, task, top_k, sample, seed, keep, heard))
        for setting, choice in getattr(model, "choices", {}).items():
            result.settings[f"{setting} of {model.name}"] = str(choice)
        del model
    bench.compare()
    result.settings |= {"flips": FLIPS, "level": LEVEL, "environment": environment(command or _command())}
    if out:
        write(result, out)
    return result


class _Bench:
    """Adds rows to an Evaluation and writes run files as they come."""

    def __init__(self, result: Evaluation, options: Options, out: Path | None) -> None:
        self.result, self.options, self.out = result, options, out
        self.recall_at = sorted({10, options.top_k})

    def first(self, task: Task) -> None:
        self.result.values[task.name] = {}
        self.result.notes[task.name] = task.notes
        self.result.skipped[task.name] = task.skipped
        self.result.queries[task.name] = {q: task.collection.queries[q] for q in task.queries}
        self._add(task, task.first, FIRST, task.ranking)

    def model(self, task: Task, model: Any, scored: Scored) -> None:
        row = self._add(task, model.name, MODEL, reranked(task, scored, self.options.top_k))
        row.documents, row.seconds, row.cuts, row.reused = scored.documents, scored.seconds, scored.cuts, scored.reused
        row.cost = scored.cost
        row.documents_per_second = scored.documents / scored.seconds if scored.seconds else None
        row.tie_share, row.without_text, row.findings = tie_share(scored.scores), scored.untold, scored.findings
        row.format_rate = (scored.findings or {}).get("format_rate")
        row.probabilities = probabilities_of(model, task, scored)
        if getattr(model, "can_diagnose", hasattr(model, "diagnose")):
            by_answers = reranked(task, scored, self.options.top_k, answers=True)
            self._add(task, answers_name(model.name), ANSWERS, by_answers)
        self._notes(task, row)

    def _notes(self, task: Task, row: Row) -> None:
        say = self.result.notes[task.name].append
        if row.without_text:
            say(f"{row.system}: {row.without_text} candidates without text were not reranked; they follow the others")
        if row.cuts and (row.cuts.get("documents") or row.cuts.get("queries")):
            cut = f"{row.cuts['documents']:,} of {row.documents:,} documents and {row.cuts['queries']:,} queries"
            say(f"{row.system}: {cut} were cut at the prompt's length")
        if told := note(row):
            say(told)
        if row.reused:
            say(f"{row.system}: scores of an earlier call used again (same weights, same texts)")

    def _add(self, task: Task, system: str, kind: str, ranking: Ranking) -> Row:
        values = measure(task.qrels, ranking, task.queries, self.recall_at, self.options.min_rel, self.options.gain)
        self.result.values[task.name][system] = values
        main = list(values[MAIN].values())
        row = Row(task.name, system, kind, means(values), len(main), bootstrap_ci(main, LEVEL, seed=self.options.seed))
        if kind != FIRST:
            row.difference, row.difference_ci, row.p = self._against(task.name, system, task.first)
        self.result.rows.append(row)
        if self.out and kind != ANSWERS:
            write_run(self.out / f"{task.name}.{slug(system)}.run", rank_scores(ranking), slug(system))
        return row

    def _against(self, dataset: str, a: str, b: str) -> tuple[float, tuple[float, float], float]:
        """(mean difference a - b, its interval, p-value) of nDCG@10 over the dataset's queries."""
        x, y = (np.array(list(self.result.values[dataset][s][MAIN].values())) for s in (a, b))
        seed = self.options.seed
        return float((x - y).mean()), bootstrap_ci(x - y, LEVEL, seed=seed), randomisation_test(x, y, FLIPS, seed)

    def compare(self) -> None:
        """Holm's correction: models against the first stage are one family a dataset, pairs of models another."""
        for dataset in self.result.datasets:
            rows = [r for r in self.result.rows if r.dataset == dataset and r.kind == MODEL]
            tested = [(row, row.p) for row in rows if row.p is not None]
            for (row, _), p in zip(tested, holm([p for _, p in tested])):
                row.p_holm = p
            pairs = [(later.system, row.system) for i, row in enumerate(rows) for later in rows[i + 1 :]]
            found = [self._against(dataset, a, b) for a, b in pairs]
            for (a, b), (difference, ci, p), corrected in zip(pairs, found, holm([p for *_, p in found])):
                self.result.comparisons.append(Comparison(dataset, a, b, difference, ci, p, corrected))


def slug(name: str) -> str:
    """A system's name as part of a file name and as run tag."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "system"


def _named(tasks: list[Task]) -> list[Task]:
    """Tasks with names of their own, though folders may be called the same."""
    for i, task in enumerate(tasks):
        task.name = _fresh(task.name, {t.name for t in tasks[:i]})
    return tasks


def _loaded(models: Sequence[Any], taken: Sequence[str]) -> Iterator[Any]:
    """Models one after another, made where a function was given; names (and so run files) differ."""
    used = {slug(name) for name in taken}
    for model in models:
        model = model if hasattr(model, "score_lists") else model()
        name = _fresh(short_name(model.name), used)
        used.add(slug(name))
        yield _Renamed(model, name)
        del model  # before the next one is made


class _Renamed:
    """A model under another name; all else is the model's own."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self.name, self.whole_name = model, name, model.name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._model, attribute)


def short_name(name: str) -> str:
    """Of a path its last two parts: what tells checkpoints apart without naming the machine's folders."""
    parts = [p for p in name.split("/") if p not in ("", ".", "..")]
    return "/".join(parts[-2:]) if len(parts) > 2 else name


def _fresh(name: str, used: set[str]) -> str:
    names_ = (name, *(f"{name} ({i})" for i in range(2, 1000)))
    return next(n for n in names_ if n not in used and slug(n) not in used)


def _counter(progress: Progress | None, what: str, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def hear(n: int) -> None:
        nonlocal done
        done += n
        progress(what, done, total)

    hear(0)
    return hear


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
