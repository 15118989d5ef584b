"""Model cards: the README.md of a checkpoint folder.

A card has front matter, a title and sections. Statements that depend on the folder's current contents (use with other libraries,
calibration) are sections, which are replaced when the contents change.
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
KEPT = ("Data", "Training")  # sections that remain valid for merged or copied weights
HUB_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"  # hub id of the built-in model
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
USE = re.compile(r'(from prorank import Reranker\n.*?Reranker\()(?:"(?:[^"\\]|\\.)*")?', re.DOTALL)


def read_card(folder: Path) -> str | None:
    """Return the card of a folder, None if there is none."""
    path = folder / FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def write_card(folder: Path, text: str) -> None:
    """Write the card of a folder atomically."""
    with atomic_file(folder / FILE) as handle:
        handle.write(text)


def front_matter(card: str | None) -> dict[str, Any]:
    """Return the front matter of a card; empty if there is none or it is invalid."""
    match = re.match(r"---\n(.*?)\n---\n", card or "", re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        values = None
    return values if isinstance(values, dict) else {}


def hub_base(name: str, folder: Path) -> str | None:
    """Return the hub id of the model that a checkpoint was trained from: its own, or the one in its card; None if unknown."""
    if name in (BUILT_IN, DEFAULT):
        return HUB_BASE
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        return name
    base = front_matter(read_card(folder)).get("base_model")
    return base if isinstance(base, str) and HUB_ID.fullmatch(base) else None


def card_head(name: str, base: str | None, licence: str, library: str = "prorank") -> str:
    """Return front matter for hubs and the title of a card. `base`: hub id, or None."""
    values: dict[str, str | list[str]] = {"library_name": library, **({"base_model": base} if base else {}), "license": licence}
    values |= {"pipeline_tag": "text-ranking", "tags": ["reranker", "prorank"]}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)}---\n# {Path(name).name}\n"


def card_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table. All rows have the keys of the first."""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(row[key]) for key in rows[0]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def usage(name: str, lists: bool = False) -> str:
    """Return example code that ranks with a checkpoint. `lists`: whether its prompt shows several documents."""
    arguments = json.dumps(str(name), ensure_ascii=False) + (', method="listwise"' if lists else "")
    explanation = (
        "The prompt shows several documents at once, and the answer is the label of the best."
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
    """Return the card of a checkpoint that a training stage wrote.

    Args:
        name: the folder, as passed to `Reranker`.
        base: the checkpoint that training started from.
        hub: hub id of the base, or None.
        licence: licence of the base.
        stage: name of the stage.
        data: description of the training data.
        settings: the settings of the run.
        measures: results on the dev set.
        command: the command or function that was called.
        lists: whether the prompt shows several documents.
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
    result: Mapping[str, Any], shares: tuple[float, float], command: str,
) -> str:  # fmt: skip
    """Return the card of a checkpoint that `prorank adapt` wrote.

    Args:
        name, base, hub, licence, command: as in `model_card`.
        data: files of the labels.
        settings: settings that all trainings share.
        result: fields of `Adapted`.
        shares: (share of the trained weights in this folder, the same in the evaluation of each training). The rest are weights of
            `base`.
    """
    several = result["trainings"] > 1
    count = result["trainings"]
    each = f"the mean of {count} trainings, each with other held-out queries" if several else "one training"
    held_out = f"each in one of the {count} trainings" if several else "from that training"
    rows = [
        {"measure": f"nDCG@10, {result['gain']} gains", "before": f"{result['before']:.4f}", "after": f"{result['after']:.4f}",
         "difference": f"{result['after'] - result['before']:+.4f}", "p": f"{result['p']:.4f}"},
        {"measure": "log-likelihood of relevant documents", "before": "", "after": "", "difference": f"{result['likelihood']:+.4f}",
         "p": f"{result['likelihood_p']:.4f}"},
    ]  # fmt: skip
    share, alone = shares
    blended = f"share of the trained weights {share:g}, the rest from `{base}`" if share < 1 else "without weights of the base"
    apart = f" Each training was measured separately, at a share of {alone:.2g}; this folder is their mean."
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
    """Return the card of a plain model that `prorank export` wrote.

    Args:
        name, hub, licence, lists: as in `model_card`.
        source: the exported checkpoint.
        base: base of the adapter, "" if `source` is not an adapter.
        dtype: type of the weights.
        card: card of `source`, whose data and training sections are copied.
    """
    merged = f", an adapter over `{base}`, merged" if base else ""
    kept = "".join(f"\n## {title}\n\n{body}\n" for title in KEPT if (body := section_of(card, title)))
    return f"""{card_head(name, hub, licence)}
A causal model made by `prorank export --format merged` from `{source}`{merged}; weights in {dtype} (licence: {licence}). It has no
calibration: run `prorank calibrate` on this folder to get probabilities.

{usage(name, lists)}{kept}"""


def how_made(command: str, settings: Mapping[str, Any]) -> str:
    """Return a command and its settings as part of a section."""
    chosen = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in settings.items())
    return f"Command: `{command}`\n\n```yaml\n{chosen}\n```\n"


def command_line(function: str) -> str:
    """Return the `prorank` command line of this process, or `function` if it was called from Python."""
    called = sys.argv and Path(sys.argv[0]).name == "prorank"
    return "prorank " + shlex.join(sys.argv[1:]) if called else function


def section_of(card: str | None, title: str) -> str | None:
    """Return the text of a section, None if the card has no section of this title."""
    match = _section(title).search(card or "")
    return match[1].strip("\n") if match else None


def with_section(card: str, title: str, body: str | None) -> str:
    """Return the card with a section replaced, or appended if it is new; removed if `body` is None."""
    written = f"## {title}\n\n{body.strip()}\n" if body else ""
    if match := _section(title).search(card):
        before, after = card[: match.start()], card[match.end() :]
        return f"{before}{written}" + (f"\n{after}" if written and after else after)
    return f"{card.rstrip()}\n\n{written}" if written else card


def _section(title: str) -> re.Pattern[str]:
    return re.compile(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def calibrated(folder: Path, calibration: Calibration, name: str | None = None) -> None:
    """Update the calibration section of a folder's card, if it has a card.

    Args:
        folder: the checkpoint folder.
        calibration: the calibration in the folder.
        name: new name of the folder, if the card was copied from another one.
    """
    card = read_card(folder)
    if card is None:
        return
    if name is not None:
        card = re.sub(r"^# .*$", lambda _: f"# {Path(name).name}", card, count=1, flags=re.MULTILINE)
        card = USE.sub(lambda use: use[1] + json.dumps(str(name), ensure_ascii=False), card, count=1)
    write_card(folder, with_section(card, CALIBRATION, about_calibration(calibration)))


def about_calibration(calibration: Calibration) -> str:
    """Return the text of the calibration section."""
    before, after = (figures.get("ece", float("nan")) for figures in (calibration.before, calibration.after))
    data = (
        f", fitted on {calibration.pairs} pairs of {calibration.queries} queries of `{calibration.data}`"
        if calibration.data
        else ""
    )
    return f"Hits carry a probability ({calibration}; ECE on held-out queries {before:.4f} before, {after:.4f} after){data}."
