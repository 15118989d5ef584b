"""Episodes: what a policy wrote for a batch of prompts, and what it earned; written by all processes together.

Hard fact: the chance of a completion is keyed by (seed, batch, prompt, sample): it is the same in every process and after a
resume.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..prompt import BoundPrompt
from ..rank.batching import batches_of, pack
from ..rank.generate import Row, Sampling, Writer, pen_in_training
from ..rewards import RuleReward, Verdict, parse
from .config import Reason
from .processes import place

TOKENS = 16384  # of prompts that are written for at once
Rows = list[torch.Tensor]  # a tensor for each completion, [drawn tokens]


@dataclass
class Episode:
    """The completions of one prompt.

    Attributes:
        prompt: its ids. label: 1 or 0.
        rows: ids of each completion. drawn: places of the tokens that the policy drew in each.
        texts, verdicts: what they say and earn. in_form: the tags are right and there is an answer. finished: each came to its end
            token.
        now, old, reference, values, gains, returns: of the drawn tokens, where the algorithm needs them.
    """

    prompt: list[int]
    label: int
    rows: list[list[int]]
    drawn: list[list[int]]
    finished: list[bool]
    texts: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    in_form: list[bool] = field(default_factory=list)
    now: Rows = field(default_factory=list)
    old: Rows = field(default_factory=list)
    reference: Rows = field(default_factory=list)
    values: Rows = field(default_factory=list)
    gains: Rows = field(default_factory=list)
    returns: Rows = field(default_factory=list)


class Rollouts:
    """Writes and judges completions.

    Args:
        bound: a thinking prompt.
        settings: see Reason.
        reward: the rule reward.
        bf16: write in bf16.
    """

    def __init__(self, bound: BoundPrompt, settings: Reason, reward: RuleReward, bf16: bool) -> None:
        self.bound, self.settings, self.reward, self.bf16 = bound, settings, reward, bf16

    def write(
        self, model: torch.nn.Module, units: Sequence[Any], samples: int, name: str, number: int = 0,
        look: Callable[[torch.nn.Module, list[Episode]], None] | None = None,
    ) -> list[Episode]:  # fmt: skip
        """Episodes of these prompts in their order; each process writes its share and `look`s at it, then all have all."""
        rank, world = place()
        mine = units[rank::world]
        keys = [[f"{self.settings.seed}/{name}/{number}/{u.key}/{k}" for k in range(samples)] for u in mine]
        training = model.training
        model.eval()
        episodes = [self._judged(u, rows) for u, rows in zip(mine, self._rows(model, mine, keys))]
        if look:
            look(model, episodes)
        model.train(training)
        return _together(episodes, next(model.parameters()).device)

    def _rows(self, model: torch.nn.Module, units: Sequence[Any], keys: list[list[str]]) -> list[list[Row]]:
        s = self.settings
        sampling = Sampling(s.temperature, s.top_p, s.max_new_tokens, s.max_think_tokens)
        writer = Writer(pen_in_training(model, self.bf16, s.compile), self.bound, sampling)
        singles = [pack([u.prompt], [i], share=False) for i, u in enumerate(units)]
        rows: list[list[Row]] = []
        for some in batches_of(singles, TOKENS, flat=True):
            first = some[0].owners[0]
            rows += writer([replace(one, owners=[i]) for i, one in enumerate(some)], keys[first : first + len(some)])
        return rows

    def _judged(self, unit: Any, rows: list[Row]) -> Episode:
        drawn = [sorted(set(range(len(row.ids))).difference(row.put)) for row in rows]
        episode = Episode(unit.prompt.ids, unit.label, [row.ids for row in rows], drawn, [row.finished for row in rows])
        for row in rows:
            text = self.bound.tokenizer.decode(row.ids[:-1] if row.finished else row.ids)
            episode.texts.append(text)
            episode.verdicts.append(self.reward.judge(text, unit.label, row.finished))
            said = parse(text, self.bound.opened)
            episode.in_form.append(said.in_form and said.answer is not None)
        return episode

    def log(self, episodes: list[Episode], units: Sequence[Any], step: int) -> None:
        """Append a batch to `completions.jsonl`, at intervals."""
        s = self.settings
        if not s.completions_every or ((step - 1) // s.updates) % s.completions_every or place()[0]:
            return
        with open(Path(s.out) / "completions.jsonl", "a", encoding="utf-8") as handle:
            for unit, episode in zip(units, episodes):
                for text, verdict, finished in zip(episode.texts, episode.verdicts, episode.finished):
                    line = {
                        "step": step, "query": unit.query, "document": unit.document, "label": unit.label, "completion": text,
                        "finished": finished, **vars(verdict),
                    }  # fmt: skip
                    handle.write(json.dumps(line, ensure_ascii=False) + "\n")


def figures_of(episodes: list[Episode]) -> dict[str, float]:
    """Means over completions: the reward and its parts, form, accuracy, lengths; KL to the reference where it is known."""
    verdicts = [v for e in episodes for v in e.verdicts]
    labels = [e.label for e in episodes for _ in e.verdicts]
    spread = [statistics.pstdev([v.reward for v in e.verdicts]) for e in episodes]
    figures = {"reward": statistics.fmean(v.reward for v in verdicts)}
    figures |= {f"reward_{name}": statistics.fmean(v.parts[name] for v in verdicts) for name in verdicts[0].parts}
    figures |= {
        "format_rate": statistics.fmean(form for e in episodes for form in e.in_form),
        "accuracy": statistics.fmean(v.answer == ("yes" if label else "no") for v, label in zip(verdicts, labels)),
        "think_tokens": statistics.fmean(v.think_tokens for v in verdicts),
        "completion_tokens": statistics.fmean(len(row) for e in episodes for row in e.rows),
        "finished": statistics.fmean(f for e in episodes for f in e.finished),
        "reward_spread": statistics.fmean(spread),
    }
    now = [row for e in episodes for row in e.old or e.now]
    then = [row for e in episodes for row in e.reference]
    if now and then:
        figures["kl"] = float((torch.cat(now) - torch.cat(then)).mean())
    return figures


def _together(episodes: list[Episode], device: torch.device) -> list[Episode]:
    """The episodes of all processes in the order of the units, which were dealt in turn; tensors on `device`."""
    _, world = place()
    if world == 1:
        return episodes
    parts: list[list[Episode]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(parts, [_moved(e, torch.device("cpu")) for e in episodes])
    return [_moved(parts[i % world][i // world], device) for i in range(sum(map(len, parts)))]


def _moved(episode: Episode, device: torch.device) -> Episode:
    for name in ("now", "old", "reference", "values", "gains", "returns"):
        setattr(episode, name, [row.to(device) for row in getattr(episode, name)])
    return episode
