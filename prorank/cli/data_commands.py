"""Verbs that make training data: mined lists, pairs to label, labels with thoughts, and what a reward says of completions.

Each verb writes its file whole or not at all, and its last line says how much came of how much.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..utils.files import atomic_file, check_file
from ..utils.terminal import print_lines, say


def add_data_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    for verb in (mine, convert, pairs, label, reward):
        app.command()(verb)


def mine(
    dataset: Annotated[Path, typer.Argument(help="BEIR folder, or ir_datasets:NAME.")],
    out: Annotated[Path, typer.Argument(help="JSONL of lists to write (.gz to compress).")],
    split: Annotated[str, typer.Option(help="qrels split.")] = "train",
    negatives: Annotated[int, typer.Option(help="Negatives a query.")] = 7,
    depth: Annotated[int, typer.Option(help="BM25 candidates a query.")] = 100,
    skip_top: Annotated[int, typer.Option(help="Leave out BM25's first N ranks, which may be relevant.")] = 0,
    max_ratio: Annotated[float | None, typer.Option(help="Drop candidates above this times the best positive's score.")] = None,
    random: Annotated[int, typer.Option(help="How many of the negatives are random documents.")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Mine negatives with BM25: judged non-relevant first, near-duplicates of positives left out."""
    from ..data.formats import read_collection
    from ..data.negatives import mine_negatives, write_groups

    check_file(out)
    groups, report = mine_negatives(
        read_collection(dataset, split), depth, negatives, skip_top=skip_top, max_ratio=max_ratio, seed=seed, random=random
    )
    write_groups(out, groups)
    say(f"{out}: {report}", out)


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Log: JSONL, plain or gzip.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Training pairs to write (.gz to compress).")],
    max_think_chars: Annotated[int | None, typer.Option(help="Cut longer thoughts at the end of a sentence or word.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Put bad lines into OUT.bad.jsonl and go on.")] = False,
) -> None:
    """Turn labelled search logs into pairs with thought and answer (Rerank-R0)."""
    from ..data.rerank_r0_logs import convert as convert_log

    say(convert_log(source, out, max_think_chars, skip_bad), out)


def pairs(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Pairs to write: JSONL (.gz to compress).")],
    run: Annotated[Path | None, typer.Option(help="TREC run to draw from; needs --dataset.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="BEIR folder with the run's texts.")] = None,
    clicks: Annotated[Path | None, typer.Option(help="Click log to draw from, in place of a run.")] = None,
    each: Annotated[int, typer.Option(help="Pairs a query, spread over the ranks.")] = 10,
    depth: Annotated[int, typer.Option(help="Ranks to draw from.")] = 100,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Draw (query, document) pairs to label, from a run or a click log."""
    from ..data.pairs import pairs_of_clicks, pairs_of_run, write_pairs

    check_file(out)
    if clicks and not (run or dataset):
        rows = pairs_of_clicks(clicks, each, depth, seed)
    elif run and dataset and not clicks:
        rows = pairs_of_run(run, dataset, each, depth, seed)
    else:
        raise ConfigError("give --run and --dataset, or --clicks")
    say(write_pairs(rows, out), out)


def label(
    source: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSONL pairs; with --extractive labelled data of any form.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL to write (.gz to compress).")],
    endpoint: Annotated[str | None, typer.Option(help="OpenAI-compatible server, such as http://localhost:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The teacher's name there.")] = None,
    form: Annotated[str, typer.Option(help="training (pairs) or log.")] = "training",
    key_env: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "OPENAI_API_KEY",
    at_once: Annotated[int, typer.Option(help="Requests under way at the same time.")] = 8,
    tries: Annotated[int, typer.Option(help="How often to ask for a yes or no.")] = 3,
    again: Annotated[bool, typer.Option("--again", help="Ask once more where earlier replies were neither.")] = False,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a server that is away or refuses for now.")] = 600.0,
    max_tokens: Annotated[int | None, typer.Option(help="Of a reply, thought included.")] = None,
    temperature: Annotated[float | None, typer.Option(help="The server's own by default.")] = None,
    extractive: Annotated[bool, typer.Option("--extractive", help="No teacher: thoughts by rule, from labels.")] = False,
    split: Annotated[str, typer.Option(help="qrels split, with --extractive on a BEIR folder.")] = "train",
    lists: Annotated[int | None, typer.Option(help="With --extractive: so many documents a thought, of which one is best.")] = None,
) -> None:
    """Label pairs with a teacher's thoughts and answers; stopped, it goes on where it was."""
    check_file(out)
    if extractive:
        from ..data.extractive_thoughts import label_extractive, label_extractive_lists
        from ..data.formats import read_groups

        groups = read_groups(source, split)
        say(label_extractive_lists(groups, out, lists) if lists else label_extractive(groups, out), out)
        return
    if lists:
        raise ConfigError("--lists goes with --extractive: teachers are asked about one document at a time")
    if not (endpoint and model):
        raise ConfigError("give --endpoint and --model, or --extractive to make thoughts by rule from labels")
    from ..data.chat_endpoint import Endpoint
    from ..data.teacher_labels import label as label_pairs
    from ..utils.progress import Progress

    more = {"max_tokens": max_tokens, "temperature": temperature}
    teacher = Endpoint(endpoint, model, key_env, patience, **{key: value for key, value in more.items() if value is not None})
    with Progress("label") as report:
        said = label_pairs(source, out, teacher, form, at_once, tries, again, lambda done, count: report(done / count, {}))
    say(said, out)


def reward(
    completions: Annotated[Path, typer.Argument(metavar="IN", help="JSONL of completion, label, finished.")],
    out: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="JSONL to write; stdout by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML whose `reward` block to use; Rerank-R0's by default.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Whose tokenizer counts; the config's by default.")] = None,
) -> None:
    """Show what the rule reward gives for completions, part by part."""
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
        raise ConfigError("whose tokens count? give --model, or a config with a base")
    rows = judge_file(completions, RuleReward(rules, counter(load_tokenizer(resolve(base)))))
    lines = map(json.dumps, rows)
    if out is None:
        print_lines(lines)
        return
    with atomic_file(out) as handle:
        handle.writelines(f"{line}\n" for line in lines)
