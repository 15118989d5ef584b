"""The HTML page of an evaluation: one file, no other host, light and dark.

Every text that comes from data (queries, names, file names) goes through `escape`; a query is free to hold
HTML.
"""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from . import charts, html_calibration
from .format import figure, findings_cells, gain_note, p_value, probability, signed, speed, tokens
from .html_parts import chart, colour, css_class, system_cell, table
from .measures import MAIN
from .results import ANSWERS, FIRST, MODEL, answers_name

if TYPE_CHECKING:
    from .results import Evaluation, Row

EXAMPLES = 5
ABOUT_FINDINGS = (
    "Format: the likeliest token is one of the two answers. Tied: share of documents whose score another document "
    "of the query has too. Effective rank (exponential of the entropy of the normalised singular values, centred) "
    "and mean cosine describe the last hidden states of the sampled pairs: a narrow space has low rank and a cosine "
    "near 1. 0/1 only: nDCG@10 when the answer alone orders, ties in first-stage order; log-odds: by the score; p: "
    "of their difference."
)


def page(evaluation: "Evaluation") -> str:
    """The whole page as text."""
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    said = evaluation.settings["environment"]
    return template.substitute(
        title=escape(", ".join(evaluation.datasets)),
        lead=_lead(evaluation),
        results=_summary(evaluation) + "".join(_results(evaluation, dataset) for dataset in evaluation.datasets),
        bars=_bars(evaluation),
        differences=_differences(evaluation),
        findings=_findings(evaluation),
        probabilities=html_calibration.section(evaluation),
        examples=_examples(evaluation),
        comparisons=_comparisons(evaluation),
        notes=_notes(evaluation),
        command=escape(said["command"]),
        settings=_settings(evaluation),
    )


def _lead(evaluation: "Evaluation") -> str:
    rows = [r for r in evaluation.rows if r.kind == FIRST]
    said, n = evaluation.settings["environment"], sum(r.queries for r in rows)
    first = ", ".join(dict.fromkeys(r.system for r in rows))
    sets = f"{len(rows)} dataset{'s' * (len(rows) > 1)}"
    return escape(" · ".join([sets, f"{n:,} queries", f"first stage: {first}", gain_note(evaluation), said["date"]]))


def _summary(evaluation: "Evaluation") -> str:
    """Means over the sets, and each set's nDCG@10 beside them."""
    if len(evaluation.datasets) < 2:
        return ""
    means = evaluation.means()
    if not means:
        return ""
    best = _best([m[MAIN] for m in means.values()])
    rows = []
    for system, mean in means.items():
        each = [figure(row.measures[MAIN]) for row in evaluation.rows_of(system)]
        rows.append((css_class(evaluation, system), [system_cell(evaluation, system), _strong(mean[MAIN], best), *each]))
    return f"<h3>{MAIN}, mean over the sets</h3>" + table(["system", "mean", *evaluation.datasets], rows)


def _results(evaluation: "Evaluation", dataset: str) -> str:
    rows = [r for r in evaluation.rows if r.dataset == dataset]
    best = {name: _best([r.measures[name] for r in rows]) for name in rows[0].measures}
    head = ["system", MAIN, "95 % interval", *list(best)[1:], "difference", "p", "documents/s", "tokens/query"]
    body = [(r.kind.replace(" ", "-"), _cells(evaluation, r, best)) for r in rows]
    return f"<h3>{escape(dataset)} <small>{rows[0].queries} queries</small></h3>" + table(head, body)


def _cells(evaluation: "Evaluation", row: "Row", best: dict[str, float]) -> list[str]:
    (_, main), *others = row.measures.items()
    interval = f"{figure(row.ci[0])} – {figure(row.ci[1])}"
    shown = [_strong(value, best[name]) for name, value in others]
    change = (
        ""
        if row.difference is None
        else f'<span class="{"gain" if row.difference > 0 else "lost"}">{signed(row.difference)}</span>'
    )
    return [
        system_cell(evaluation, row.system),
        _strong(main, best[MAIN]),
        interval,
        *shown,
        change,
        p_value(row),
        speed(row),
        tokens(row),
    ]


def _best(values: list[float]) -> float:
    """The largest, to be printed in bold; infinity where there is nothing to choose."""
    return max(values) if len(set(values)) > 1 else math.inf


def _strong(value: float, best: float) -> str:
    return f"<b>{figure(value)}</b>" if not math.isnan(value) and value >= best else figure(value)


def _bars(evaluation: "Evaluation") -> str:
    shown = [r for r in evaluation.rows if r.kind != ANSWERS]
    top = min(1.0, math.ceil(max(0.1, *(r.ci[1] for r in shown)) * 10) / 10)
    parts = []
    for dataset in evaluation.datasets:
        rows = [(r.system, colour(evaluation, r.system), r.measures[MAIN], r.ci) for r in shown if r.dataset == dataset]
        parts.append(chart(charts.bars(rows, top), escape(dataset)))
    return "".join(parts)


def _pairs(evaluation: "Evaluation") -> list[tuple["Row", "Row", dict[str, float]]]:
    """(model row, first-stage row, query -> difference in nDCG@10)."""
    found = []
    for row in (r for r in evaluation.rows if r.kind == MODEL):
        first = next(r for r in evaluation.rows if r.dataset == row.dataset and r.kind == FIRST)
        ours, theirs = (evaluation.values[row.dataset][r.system][MAIN] for r in (row, first))
        found.append((row, first, {q: ours[q] - theirs[q] for q in ours}))
    return found


def _differences(evaluation: "Evaluation") -> str:
    parts = []
    for row, _, by_query in _pairs(evaluation):
        better, worse = (sum(sign * d > 1e-12 for d in by_query.values()) for sign in (1, -1))
        texts = evaluation.queries[row.dataset]
        svg = charts.differences([(texts[q], d) for q, d in by_query.items()], colour(evaluation, row.system))
        counts = f"{better} better, {worse} worse, {len(by_query) - better - worse} equal"
        parts.append(chart(svg, f"{escape(row.dataset)} · {escape(row.system)} <small>{counts}</small>"))
    if not parts:
        return ""
    return (
        "<section><h2>Query by query</h2>"
        "<p>Difference in nDCG@10 to the first stage, one column a query, gains first.</p>"
        f'<div class="grid">{"".join(parts)}</div></section>'
    )


def _findings(evaluation: "Evaluation") -> str:
    rows = [(r, r.findings) for r in evaluation.rows if r.findings]
    if not rows:
        return ""
    body = [
        ("", [escape(r.dataset), system_cell(evaluation, r.system), *findings_cells(r, found), *_binary(evaluation, r)])
        for r, found in rows
    ]
    head = [
        "dataset",
        "system",
        "pairs",
        "format",
        "p(0)+p(1)",
        "tied scores",
        "effective rank",
        "mean cosine",
        "0/1 only",
        "log-odds",
        "p",
    ]
    about = f"<h2>At the answer position</h2><p>{escape(ABOUT_FINDINGS)}</p>"
    return f'<section class="pair">{about}{table(head, body)}</section>'


def _binary(evaluation: "Evaluation", row: "Row") -> list[str]:
    """nDCG@10 by answers and by log-odds, and the p-value of their difference."""
    from .significance import randomisation_test

    answers = evaluation.find(row.dataset, answers_name(row.system))
    if answers is None:
        return ["–", figure(row.measures[MAIN]), ""]
    ours, theirs = (list(evaluation.values[row.dataset][s][MAIN].values()) for s in (row.system, answers.system))
    p = randomisation_test(ours, theirs, evaluation.settings["flips"], evaluation.settings["seed"])
    return [figure(answers.measures[MAIN]), figure(row.measures[MAIN]), probability(p)]


def _examples(evaluation: "Evaluation") -> str:
    parts = []
    for i, (row, first, by_query) in enumerate(_pairs(evaluation)):
        ordered = sorted(by_query, key=lambda q: -by_query[q])
        ends = [q for q in ordered[:EXAMPLES] if by_query[q] > 0] + [q for q in ordered[-EXAMPLES:] if by_query[q] < 0]
        ours, theirs = (evaluation.values[row.dataset][r.system][MAIN] for r in (row, first))
        texts = evaluation.queries[row.dataset]
        body = [
            (
                "",
                [
                    f"<small>{escape(q)}</small> {escape(texts[q][:240])}",
                    figure(theirs[q]),
                    figure(ours[q]),
                    _change(by_query[q]),
                ],
            )
            for q in ends
        ]
        shown = table(["query", first.system, row.system, "difference"], body)
        opened = " open" if i == 0 else ""
        parts.append(f"<details{opened}><summary>{escape(row.dataset)} · {escape(row.system)}</summary>{shown}</details>")
    return f"<section><h2>Largest gains and losses</h2>{''.join(parts)}</section>" if parts else ""


def _change(value: float) -> str:
    return f'<span class="{"gain" if value > 0 else "lost"}">{signed(value)}</span>'


def _comparisons(evaluation: "Evaluation") -> str:
    if not evaluation.comparisons:
        return ""
    rows = []
    for c in evaluation.comparisons:
        interval = f"{signed(c.ci[0])} to {signed(c.ci[1])}"
        names = f"{escape(c.a)} <small>against</small> {escape(c.b)}"
        figures = [_change(c.difference), interval, probability(c.p), probability(c.p_holm)]
        rows.append(("", [escape(c.dataset), names, *figures]))
    shown = table(["dataset", "models", "difference", "95 % interval", "p", "p (Holm)"], rows)
    return f'<section class="pair"><h2>Models against each other</h2><p>nDCG@10, the same test.</p>{shown}</section>'


def _notes(evaluation: "Evaluation") -> str:
    items = [f"<li><b>{escape(d)}</b> {escape(note)}</li>" for d, notes in evaluation.notes.items() for note in notes]
    return f"<section><h2>Notes</h2><ul>{''.join(items)}</ul></section>" if items else ""


def _settings(evaluation: "Evaluation") -> str:
    said = evaluation.settings["environment"]
    flat = {k: v for k, v in evaluation.settings.items() if k != "environment" and v is not None}
    flat |= {k: v for k, v in said.items() if k not in ("command", "packages") and v is not None} | said["packages"]
    return "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(_said(v))}</dd>" for k, v in flat.items())


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
