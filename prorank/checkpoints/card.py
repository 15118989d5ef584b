"""Model cards: README.md of a checkpoint's folder, true of that folder alone.

A card is front matter, a title and sections. What is known only of the folder as it lies there (how other libraries read it, its
calibration) is a section that is written when the folder is, and replaced when that changes.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..utils.files import atomic_file
from .calibration import Calibration
from .default_model import DEFAULT
from .sources import BUILT_IN

FILE = "README.md"
CALIBRATION, LIBRARIES = "Calibration", "Other libraries"
KEPT = ("Data", "Training")  # sections that stay true of weights that were merged or copied
HUB_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of the built-in model, as a hub knows it
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
USE = re.compile(r'(from prorank import Reranker\n.*?Reranker\()(?:"(?:[^"\\]|\\.)*")?', re.DOTALL)


def read_card(folder: Path) -> str | None:
    """The card of a folder, None where it has none."""
    path = folder / FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def write_card(folder: Path, text: str) -> None:
    """Write the card of a folder, whole or not at all."""
    with atomic_file(folder / FILE) as handle:
        handle.write(text)


def front_matter(card: str | None) -> dict[str, Any]:
    """The settings before a card's title; none where there are none that can be read."""
    match = re.match(r"---\n(.*?)\n---\n", card or "", re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        values = None
    return values if isinstance(values, dict) else {}


def hub_base(name: str, folder: Path) -> str | None:
    """The hub id of the model that a checkpoint goes back to: its own, or what its card says; None where that is unknown."""
    if name in (BUILT_IN, DEFAULT):
        return HUB_BASE
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        return name
    base = front_matter(read_card(folder)).get("base_model")
    return base if isinstance(base, str) and HUB_ID.fullmatch(base) else None


def card_head(name: str, base: str | None, licence: str, library: str = "prorank") -> str:
    """Front matter, as hubs read it, and title of a card. `base`: a hub id, or None."""
    values: dict[str, str | list[str]] = {"library_name": library, **({"base_model": base} if base else {}), "license": licence}
    values |= {"pipeline_tag": "text-ranking", "tags": ["reranker", "prorank"]}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)}---\n# {Path(name).name}\n"


def card_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of rows that all have the first one's keys."""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(row[key]) for key in rows[0]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def usage(name: str, lists: bool = False) -> str:
    """Python that ranks with the checkpoint of this name; `lists`: it is shown several documents at once."""
    arguments = json.dumps(str(name), ensure_ascii=False) + (', method="listwise"' if lists else "")
    explanation = (
        "It is shown several documents at once and answers with the label of the best."
        if lists
        else "Scores are raw log-odds of the answer tokens."
    )
    return f"""```python
from prorank import Reranker

hits = Reranker({arguments}).rank("a query", ["a document", "another document"])
```

{explanation}
"""


def model_card(
    name: str, base: str, hub: str | None, licence: str, stage: str, data: str, settings: Mapping[str, Any],
    measures: Mapping[str, Any], command: str, lists: bool = False,
) -> str:  # fmt: skip
    """Card of what a stage trained.

    Args:
        name: the folder as `Reranker` takes it. base: the checkpoint that training started from; hub: its hub id, or None.
        measures: on the dev set.
        lists: it is shown several documents at once.
    """
    rows = [{"measure": key, "value": value} for key, value in measures.items()] or [{"measure": "none", "value": ""}]
    return f"""{card_head(name, hub, licence)}
A reranker trained with ProRank, stage `{stage}`, from `{base}` (licence: {licence}).

{usage(name, lists)}
## Training

Data: {data}

{how_made(command, settings)}
## Measures on the dev set

{card_table(rows)}
"""


def adapted_card(
    name: str, base: str, hub: str | None, licence: str, data: Sequence[str], settings: Mapping[str, Any],
    result: Mapping[str, Any],    shares: tuple[float, float], command: str,
) -> str:  # fmt: skip
    """Card of what `prorank adapt` made.

    Args:
        name, base, hub: as in `model_card`. data: all labels that were given.
        settings: what the trainings had in common.
        found: fields of `Adapted`.
        shares: of the trained weights in this folder, and in what each training was measured with; the rest are those of `base`.
    """
    several = result["trainings"] > 1
    count = result["trainings"]
    each = f"the mean of {count} trainings, each of which held out a part of the queries" if several else "one training"
    held_out = f"each by one of the {count} trainings" if several else "all by that one"
    rows = [
        {"measure": f"nDCG@10, {result['gain']} gains", "before": f"{result['before']:.4f}", "after": f"{result['after']:.4f}",
         "difference": f"{result['after'] - result['before']:+.4f}", "p": f"{result['p']:.4f}"},
        {"measure": "log-likelihood of relevant documents", "before": "", "after": "", "difference": f"{result['likelihood']:+.4f}",
         "p": f"{result['likelihood_p']:.4f}"},
    ]  # fmt: skip
    share, alone = shares
    blended = f"the share of the trained weights is {share:g}, the rest are those of `{base}`" if share < 1 else "all is trained"
    apart = f" The figures are those of each training by itself, at a share of {alone:.2g}; this folder is their mean."
    return f"""{card_head(name, hub, licence)}
`{base}`, fine-tuned by `prorank adapt` on a team's own labels (licence: {licence}): {each}; {blended}.

{usage(name)}
## Training

Data: {", ".join(data)} ({result["trained_on"]} queries)

{how_made(command, settings)}
## Measures on held-out queries

{result["queries"]} queries, held out {held_out}; p by paired randomisation.{apart if several else ""}

{card_table(rows)}
"""


def merged_card(name: str, source: str, hub: str | None, licence: str, base: str, dtype: str, card: str | None, lists: bool) -> str:
    """Card of a plain model that `prorank export` wrote.

    Args:
        source: the checkpoint it was made from; card: that one's card, whose training and data hold here, too.
        base: what an adapter lay over, "" for a checkpoint without one.
        dtype: of the weights.
    """
    merged = f", an adapter over `{base}`, merged" if base else ""
    kept = "".join(f"\n## {title}\n\n{body}\n" for title in KEPT if (body := section_of(card, title)))
    return f"""{card_head(name, hub, licence)}
A causal model made by `prorank export --format merged` from `{source}`{merged}; weights in {dtype} (licence: {licence}). It has no
calibration: calibrate this folder anew for probabilities.

{usage(name, lists)}{kept}"""


def how_made(command: str, settings: Mapping[str, Any]) -> str:
    """A command and its settings, as part of a section."""
    chosen = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in settings.items())
    return f"Command: `{command}`\n\n```yaml\n{chosen}\n```\n"


def command_line(function: str) -> str:
    """The `prorank` command line of this process, or the name of a Python function where there is none."""
    called = sys.argv and Path(sys.argv[0]).name == "prorank"
    return "prorank " + shlex.join(sys.argv[1:]) if called else function


def section_of(card: str | None, title: str) -> str | None:
    """The text of a section, None where the card has none of this title."""
    match = _section(title).search(card or "")
    return match[1].strip("\n") if match else None


def with_section(card: str, title: str, body: str | None) -> str:
    """The card with this section in place of the one of the same title, at the end where there was none; None: without it."""
    written = f"## {title}\n\n{body.strip()}\n" if body else ""
    if match := _section(title).search(card):
        before, after = card[: match.start()], card[match.end() :]
        return f"{before}{written}" + (f"\n{after}" if written and after else after)
    return f"{card.rstrip()}\n\n{written}" if written else card


def _section(title: str) -> re.Pattern[str]:
    return re.compile(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def calibrated(folder: Path, calibration: Calibration, name: str | None = None) -> None:
    """Bring the card of a folder, if it has one, in line with its calibration.

    Args:
        found: the calibration that lies in the folder.
        name: what `Reranker` takes to load the folder, where the card is that of another one, of which this is a copy.
    """
    card = read_card(folder)
    if card is None:
        return
    if name is not None:
        card = re.sub(r"^# .*$", lambda _: f"# {Path(name).name}", card, count=1, flags=re.MULTILINE)
        card = USE.sub(lambda use: use[1] + json.dumps(str(name), ensure_ascii=False), card, count=1)
    write_card(folder, with_section(card, CALIBRATION, about_calibration(calibration)))


def about_calibration(calibration: Calibration) -> str:
    """What a card says of a calibration."""
    before, after = (figures.get("ece", float("nan")) for figures in (calibration.before, calibration.after))
    data = (
        f", fitted on {calibration.pairs} pairs of {calibration.queries} queries of `{calibration.data}`"
        if calibration.data
        else ""
    )
    return f"Hits carry a probability ({calibration}; ECE on held-out queries {before:.4f} before, {after:.4f} after){data}."
