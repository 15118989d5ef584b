"""Evaluate a first stage and models on datasets: standard measures, significance, run files and a report.

All systems of a dataset are evaluated on the same queries and candidates, so differences are paired.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data.languages import AUTO, check_language
from ..errors import ConfigError
from ..utils.files import check_folder
from .candidates import Options, prepare
from .environment import environment
from .evaluation_builder import FLIPS, LEVEL, EvaluationBuilder
from .gains import LINEAR, check_gain
from .report_files import write
from .results import Evaluation
from .scoring import score
from .system_names import load_models, name_tasks, slug

Progress = Callable[[str, int, int], None]


def evaluate(
    datasets: Sequence[str | Path],
    models: Sequence[Any] = (),
    run: str | Path | None = None,
    qrels: str | Path | None = None,
    top_k: int = 100,
    split: str = "test",
    min_rel: int = 1,
    judged_only: bool = False,
    exclude: str | Path | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    only_run_queries: bool = False,
    sample: int = 128,
    command: str | None = None,
    gain: str = LINEAR,
    language: str = AUTO,
) -> Evaluation:
    """Evaluate the first stage, and each model's order of its first `top_k` candidates.

    File names are first looked up in each dataset's folder.

    Args:
        datasets: BEIR folders, or ir_datasets:NAME.
        models: Rerankers, `Scorer`s, or functions without arguments that return one, so that only one is in memory. Without models,
            only the first stage is evaluated.
        run: the first stage: a TREC run; or "protocol" for each folder's protocol.run.txt, with qrels/full.txt and
            qrels/exclude.txt if the folder has them; BM25 (k1 0.9, b 0.4) over the corpus by default.
        qrels: file of judgements to use instead of qrels/{split}.tsv.
        top_k: number of candidates that a model reorders; the others follow in first-stage order.
        split: split of the judgements.
        min_rel: smallest label that counts as relevant in MRR, MAP and recall.
        judged_only: use each query's judged documents as candidates, in BM25 order.
        exclude: file of (query id, document id) pairs to drop from judgements and candidates.
        out: folder for {dataset}.{system}.run, results.json, report.html and scores/. The latter contains raw scores, which later
            calls reuse if model and texts are the same.
        limit: number of queries to sample, determined by the seed.
        seed: seed of sampling, tests and intervals.
        progress: called with (name, documents done, documents in total).
        only_run_queries: average over the run's queries only. A protocol list always implies it.
        sample: number of pairs for the diagnosis of a model (format rate, effective rank, mean cosine); 0 for none.
        command: command line for the report; that of this process by default.
        gain: gain of a label in nDCG: "linear", the label, or "exponential", 2^label - 1. Training settings have the same key.
        language: language of BM25's stemmer and stop words, or of character bigrams; "auto" detects it from each corpus, and a note
            names it if it is not English.

    Raises:
        DataError: a file is missing or malformed. Raised before any model is loaded.
        ConfigError: an argument is invalid. Raised before any model is loaded.
        ModelError: a model returns scores that are not finite.
    """
    _check(datasets, top_k, min_rel, gain)
    if check_language(language) != AUTO and run:
        raise ConfigError("--run and --language exclude each other: the language is that of BM25, which --run replaces")
    files = {"run": run, "qrels": qrels, "exclude": exclude}
    options = Options(
        **{name: None if path is None else str(path) for name, path in files.items()},
        split=split, min_rel=min_rel, top_k=top_k, judged_only=judged_only, limit=limit, only_run_queries=only_run_queries,
        seed=seed, gain=gain, language=language,
    )  # fmt: skip
    folder = _out_folder(out)
    tasks = name_tasks([prepare(dataset, options, alone=len(datasets) == 1) for dataset in datasets])
    builder = EvaluationBuilder(options, sample, tasks, folder)
    result = builder.result
    for dataset, task in zip(datasets, tasks):
        result.note_name(str(dataset), task.name)
        if run:
            result.note_name(str(run), task.first)
        builder.add_first_stage(task)
    for model in load_models(models, [task.first for task in tasks]):
        result.note_name(model.whole_name, model.name)
        for task in tasks:
            documents = sum(len(task.head(query, top_k)[0]) for query in task.queries)
            count = _counter(progress, f"{task.name} · {model.name}", documents)
            cache = folder / "scores" / f"{task.name}.{slug(model.name)}.json" if folder else None
            builder.add_model(task, model, score(model, task, top_k, sample, seed, cache, count))
        for setting, choice in getattr(model, "choices", {}).items():
            result.settings[f"{setting} of {model.name}"] = str(choice)
        del model  # free its memory before the next one is loaded
    builder.compare_models()
    result.settings |= {"flips": FLIPS, "level": LEVEL, "environment": environment(command or _command())}
    if folder:
        write(result, folder)
    return result


def _check(datasets: Sequence[str | Path], top_k: int, min_rel: int, gain: str) -> None:
    """Raise ConfigError for arguments out of range."""
    if not datasets:
        raise ConfigError("name at least one dataset folder")
    if top_k < 1:
        raise ConfigError(f"--top-k must be at least 1, not {top_k}")
    if min_rel < 1:
        raise ConfigError(f"--min-rel must be at least 1, not {min_rel}")
    check_gain(gain, "--gain")


def _out_folder(out: str | Path | None) -> Path | None:
    """Return the output folder after checking that it can be written."""
    if not out:
        return None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file, expected a folder")
    check_folder(folder)
    return folder


def _counter(progress: Progress | None, name: str, total: int) -> Callable[[int], None] | None:
    """Return a function that counts and reports finished documents; None without `progress`."""
    if progress is None:
        return None
    done = 0

    def count(documents: int) -> None:
        nonlocal done
        done += documents
        progress(name, done, total)

    count(0)
    return count


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
