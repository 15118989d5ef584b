"""Draws the two pictures of README and docs as SVG, without a plotting library, so that the files are the same everywhere.

    python -m scripts.draw_pictures        # writes docs/pictures/gain.svg and docs/pictures/architecture.svg

`gain.svg` shows the figures of row E126 of `benchmarks/log.jsonl`. A test compares both files with what this script draws.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
GAIN_ROW = "E126"
COLOURS = {"BM25": "#b8bec7", "all-MiniLM-L6-v2": "#6b8fb5", "prorank-smollm2-135m": "#d1495b"}
FONT = 'font-family="Helvetica, Arial, sans-serif"'


def text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", weight: str = "normal", fill: str = "#222") -> str:
    style = f'{FONT} font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: int = 6) -> str:
    corners = f'rx="{radius}" ' if radius else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {corners}fill="{fill}" stroke="{stroke}"/>'


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 10 5 0 10z" fill="#555"/></marker></defs>'
    )
    return "\n".join(
        [head, f"<title>{escape(title)}</title>", arrow, box(0, 0, width, height, "#ffffff", radius=0), *parts, "</svg>\n"]
    )


def gain_figures() -> dict[str, dict[str, float]]:
    """Return nDCG@10 by list and system, from the log."""
    rows = map(json.loads, (ROOT / "benchmarks" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    figures: dict[str, dict[str, float]] = next(row for row in rows if row["id"] == GAIN_ROW)["metrics"]["ndcg@10"]
    return figures


def gain_picture() -> str:
    """Draw grouped bars: three systems on six lists."""
    figures = gain_figures()
    width, height, left, top, floor, bar, scale = 900, 360, 50, 70, 310, 38, 300
    parts = [text(width / 2, 26, "nDCG@10 on six open test lists", 17, weight="bold")]
    for n, (system, colour) in enumerate(COLOURS.items()):
        x = 190 + 200 * n
        parts += [box(x, 40, 14, 14, colour, radius=2), text(x + 20, 52, system, anchor="start")]
    for tick in (0, 0.2, 0.4, 0.6, 0.8):
        y = floor - scale * tick
        parts.append(f'<line x1="{left}" y1="{y:g}" x2="{width - 10}" y2="{y:g}" stroke="#e3e6ea"/>')
        parts.append(text(left - 8, y + 4, f"{tick:.1f}", 11, "end", fill="#666"))
    step = (width - left - 10) / len(figures)
    for n, (name, systems) in enumerate(figures.items()):
        begin = left + step * n + (step - 3 * bar) / 2
        for place, (system, colour) in enumerate(COLOURS.items()):
            value = systems[system]
            x, y = begin + bar * place, floor - scale * value
            parts.append(box(x, y, bar - 4, scale * value, colour, radius=2))
            best = value == max(systems.values())
            parts.append(text(x + (bar - 4) / 2, y - 5, f"{value:.4f}".lstrip("0"), 10, weight="bold" if best else "normal"))
        parts.append(text(begin + 1.5 * bar, floor + 18, name))
    source = "whole protocol lists, BM25's candidates. 135M parameters; MiniLM: 22M, a billion pairs."
    parts.append(text(width / 2, height - 10, f"{GAIN_ROW}: {source}", 11, fill="#666"))
    assert top < floor
    return svg(width, height, "nDCG@10 of BM25, all-MiniLM-L6-v2 and the default model on six test lists", parts)


def node(x: float, y: float, title: str, place: str, fill: str = "#eef2f7", width: int = 250, height: int = 46) -> list[str]:
    """Draw a box with a title and, below it, the path of the code."""
    lines = [box(x, y, width, height, fill, "#9aa5b1"), text(x + width / 2, y + 19, title, 13, weight="bold")]
    return [*lines, text(x + width / 2, y + 36, place, 11, fill="#555")]


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#555" stroke-width="1.5" marker-end="url(#arrow)"/>'


def architecture_picture() -> str:
    """Draw ranking on the left, training on the right, and shared parts in the middle."""
    left, middle, right, step, top = 20, 325, 630, 78, 92
    ranking, shared, training = "#e8f1ea", "#eef2f7", "#fbeee6"
    rank_nodes = [
        ("query, documents", "cli/  serve/  search/  integrations/"),
        ("Reranker: texts, one strategy", "reranker.py  rank/strategy.py"),
        ("log-odds of each document", "rank/pointwise.py  engine/heads.py"),
        ("sort, calibrate, Hits", "rank/documents.py  checkpoints/"),
    ]
    core_nodes = [
        ("checkpoint: weights + prompt", "checkpoints/"),
        ("prompt encoder: ids, truncation", "prompts/pair_encoder.py  truncation.py"),
        ("packing: shared prefixes", "engine/packing.py"),
        ("model layers: last hidden states", "engine/cpu_engine.py, or transformers"),
    ]
    train_nodes = [
        ("queries with graded documents", "data/formats.py"),
        ("stage: training examples", "train/stages/"),
        ("loss or policy gradient", "train/objectives/"),
        ("optimiser, dev set, best weights", "train/stage_trainer.py"),
    ]
    parts = [text(450, 28, "How ProRank is put together", 17, weight="bold")]
    for x, name in ((left, "ranking"), (middle, "shared"), (right, "training")):
        parts.append(text(x + 125, 58, name, 14, fill="#555"))
    for x, fill, nodes in ((left, ranking, rank_nodes), (middle, shared, core_nodes), (right, training, train_nodes)):
        for n, (title, place) in enumerate(nodes):
            parts += node(x, top + step * n, title, place, fill)
        parts += [arrow(x + 125, top + step * n + 46, x + 125, top + step * (n + 1)) for n in range(len(nodes) - 1) if x == middle]
    y = [top + step * n for n in range(4)]
    parts += [arrow(x + 125, y[0] + 46, x + 125, y[1]) for x in (left, right)]
    parts += [arrow(x + 125, y[2] + 46, x + 125, y[3]) for x in (left, right)]
    parts += [arrow(left + 250, y[1] + 23, middle, y[1] + 23), arrow(right, y[1] + 23, middle + 250, y[1] + 23)]
    parts += [arrow(middle, y[3] + 14, left + 250, y[2] + 32), arrow(middle + 250, y[3] + 14, right, y[2] + 32)]
    route = f"M{right + 250} {y[3] + 23} H{right + 262} V{top - 18} H{middle + 125} V{top - 3}"
    parts += [f'<path d="{route}" {ROUTE}/>', text(right - 50, top - 22, "trained checkpoint", 11, fill="#555")]
    return svg(900, y[3] + 66, "Ranking and training share prompts, packing and layers", parts)


ROUTE = 'fill="none" stroke="#555" stroke-width="1.5" stroke-dasharray="5 4" marker-end="url(#arrow)"'
DRAWN = {"gain.svg": gain_picture, "architecture.svg": architecture_picture}


def main() -> None:
    for name, draw in DRAWN.items():
        (PICTURES / name).write_text(draw(), encoding="utf-8")
        print(PICTURES / name)


if __name__ == "__main__":
    main()
