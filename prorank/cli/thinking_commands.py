"""Verbs that make and check training data with thoughts: `label`, `sample-pairs`, `import-logs`, `score-completions`.

Each writes its file atomically and prints counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from ..utils.files import atomic_file, check_file
from ..utils.terminal import print_lines, say
from .options import MAIN

TEACHER = "Teacher"
BY_RULE = "Rule-based thoughts"


def label(
    source: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSONL pairs; with --extractive, labelled data in any format.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file to write (.gz to compress).")],
    form: Annotated[
        str, typer.Option(help="Format of OUT: training (pairs) or log (one query per line).", rich_help_panel=MAIN)
    ] = "training",
    endpoint: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible server, such as http://localhost:8000/v1.", rich_help_panel=TEACHER),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name of the teacher model on that server.", rich_help_panel=TEACHER)
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the API key.", rich_help_panel=TEACHER)
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(help="Requests in flight at the same time.", rich_help_panel=TEACHER)] = 8,
    max_attempts: Annotated[int, typer.Option(help="Attempts per pair to get a yes or no.", rich_help_panel=TEACHER)] = 3,
    retry_unparsed: Annotated[
        bool,
        typer.Option(
            "--retry-unparsed", help="Send pairs again that got neither yes nor no in an earlier run.", rich_help_panel=TEACHER
        ),
    ] = False,
    patience: Annotated[
        float,
        typer.Option(help="Seconds to wait for a server that is unreachable or overloaded.", rich_help_panel=TEACHER),
    ] = 600.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Maximum number of tokens of a reply with its thought. Default: the server's.", rich_help_panel=TEACHER),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature. Default: the server's.", rich_help_panel=TEACHER)
    ] = None,
    extractive: Annotated[
        bool, typer.Option("--extractive", help="Write rule-based thoughts from labels, without teacher.", rich_help_panel=BY_RULE)
    ] = False,
    quote: Annotated[
        str | None,
        typer.Option(
            metavar="terms|MODEL",
            help="With --extractive: quote the sentence with the most query terms, or a reranker's best one, and keep its score. "
            "Default: name terms only.",
            rich_help_panel=BY_RULE,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="With --extractive on a BEIR folder: qrels/SPLIT.tsv.", rich_help_panel=BY_RULE)
    ] = "train",
    lists: Annotated[
        int | None,
        typer.Option(help="With --extractive: number of documents per thought. Default: one.", rich_help_panel=BY_RULE),
    ] = None,
) -> None:
    """Label pairs with a teacher's thoughts and answers.

    An interrupted run is resumed.
    """
    check_file(out)
    if quote and (lists or not extractive):
        raise ConfigError("--quote needs --extractive and single documents; " + ("omit --lists" if lists else "add --extractive"))
    if extractive:
        say(_label_by_rule(source, out, split, lists, quote), out)
        return
    if lists:
        raise ConfigError("--lists needs --extractive: teachers label one document at a time")
    if not (endpoint and model):
        raise ConfigError("give --endpoint and --model, or --extractive to write rule-based thoughts from labels")
    from ..data.chat_endpoint import Endpoint
    from ..data.teacher_labels import label as label_pairs
    from ..utils.progress import Progress

    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    teacher = Endpoint(endpoint, model, key_env, patience, **{key: value for key, value in sampling.items() if value is not None})
    with Progress("label") as report:
        summary = label_pairs(
            source, out, teacher, form, concurrency, max_attempts, retry_unparsed, lambda done, count: report(done / count, {})
        )
    say(summary, out)


def _label_by_rule(source: Path, out: Path, split: str, lists: int | None, quote: str | None) -> object:
    """Write extractive thoughts for labelled data; returns a summary."""
    from ..data.extractive_thoughts import label_extractive, label_extractive_lists
    from ..data.formats import read_groups

    groups = read_groups(source, split)
    if quote:
        from ..data.quoting_thoughts import label_quoting
        from ..reranker import Reranker
        from ..utils.progress import Progress

        scorer = None if quote == "terms" else Reranker(quote, think=False)
        with Progress("label") as report:
            return label_quoting(groups, out, scorer, lambda share: report(share, {}))
    return label_extractive_lists(groups, out, lists) if lists else label_extractive(groups, out)


def sample_pairs(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file of pairs to write (.gz to compress).")],
    run: Annotated[Path | None, typer.Option(help="TREC run to sample from; needs --dataset.", rich_help_panel=MAIN)] = None,
    dataset: Annotated[Path | None, typer.Option(help="BEIR folder with the texts of the run.", rich_help_panel=MAIN)] = None,
    clicks: Annotated[
        Path | None, typer.Option(help="Click log (JSONL) to sample from, instead of a run.", rich_help_panel=MAIN)
    ] = None,
    per_query: Annotated[int, typer.Option(help="Pairs per query, spread over the ranks.", rich_help_panel=MAIN)] = 10,
    depth: Annotated[int, typer.Option(help="Sample from the first N ranks.", rich_help_panel=MAIN)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the sample.", rich_help_panel=MAIN)] = 0,
) -> None:
    """Sample (query, document) pairs to label, from a run or a click log."""
    from ..data.pairs import pairs_of_clicks, pairs_of_run, write_pairs

    check_file(out)
    if clicks and not (run or dataset):
        rows = pairs_of_clicks(clicks, per_query, depth, seed)
    elif run and dataset and not clicks:
        rows = pairs_of_run(run, dataset, per_query, depth, seed)
    else:
        raise ConfigError("give --run and --dataset, or --clicks")
    say(write_pairs(rows, out), out)


def import_logs(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Log to read: JSONL, plain or gzip.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file of training pairs to write (.gz to compress).")],
    max_think_chars: Annotated[
        int | None,
        typer.Option(
            help="Maximum characters of a thought, truncated after a sentence or word. Default: none.", rich_help_panel=MAIN
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Write malformed lines to OUT.bad.jsonl and continue.", rich_help_panel=MAIN)
    ] = False,
) -> None:
    """Import labelled search logs as training pairs with thought and answer (Rerank-R0)."""
    from ..data.rerank_r0_logs import convert

    say(convert(source, out, max_think_chars, skip_bad), out)


def score_completions(
    completions: Annotated[Path, typer.Argument(metavar="IN", help="JSONL with the keys completion, label, finished.")],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="JSONL file to write. Default: stdout.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file whose `reward` block to use. Default: Rerank-R0's rules.", rich_help_panel=MAIN),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Checkpoint whose tokenizer counts tokens. Default: the base of --config.", rich_help_panel=MAIN
        ),
    ] = None,
) -> None:
    """Score completions with the rule-based reward and its parts."""
    from ..checkpoints.loading import load_tokenizer
    from ..checkpoints.resolve import resolve
    from ..rewards.rules import RuleReward, counter, judge_file, rules_of
    from ..utils.config_files import read_values

    if out:
        check_file(out)
    values = read_values(config) if config else {}
    try:
        rules = rules_of(values)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None
    base = model or values.get("base")
    if not base:
        raise ConfigError("no tokenizer to count tokens; give --model, or a config with a base")
    rows = judge_file(completions, RuleReward(rules, counter(load_tokenizer(resolve(base)))))
    lines = map(json.dumps, rows)
    if out is None:
        print_lines(lines)
        return
    with atomic_file(out) as handle:
        handle.writelines(f"{line}\n" for line in lines)
