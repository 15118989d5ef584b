"""Episodes: what a policy wrote for a batch of prompts, and what it earned; written by all processes together.

The chance of a completion is keyed by (seed, batch, prompt, sample): it is the same in every process and after a
resume.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...data.jsonl import line_of
from ...engine.generation import Sampler, generate, make_training_generator
from ...engine.sampling import Completion, Sampling
from ...prompts.prompt import AnyPromptEncoder
from ...rewards.rules import Verdict
from ...utils.files import append_text
from ..distributed import place
from ..settings.stage_settings import Reason
from .reason_tasks import RolloutPrompt, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rows = list[torch.Tensor]  # a tensor for each completion, [drawn tokens]


@dataclass
class Episode:
    """The completions of one prompt.

    Attributes:
        prompt: its ids.
        rows: ids of each completion. drawn: places of the tokens that the policy drew in each.
        texts, verdicts: what they say and earn. in_form: the tags are right and there is an answer. right: it is the right one.
            finished: each came to its end token.
        now, old, reference, values, gains, returns: of the drawn tokens, where the algorithm needs them.
    """

    prompt: list[int]
    rows: list[list[int]]
    drawn: list[list[int]]
    finished: list[bool]
    texts: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    in_form: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
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
        task: judges completions.
        bf16: write in bf16.
    """

    def __init__(self, bound: AnyPromptEncoder, settings: Reason, task: Task, bf16: bool) -> None:
        self.bound, self.settings, self.task, self.bf16 = bound, settings, task, bf16

    def write(
        self, model: PreTrainedModel, units: Sequence[RolloutPrompt], samples: int, name: str, number: int = 0,
        look: Callable[[PreTrainedModel, list[Episode]], None] | None = None,
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

    def _rows(self, model: PreTrainedModel, units: Sequence[RolloutPrompt], keys: list[list[str]]) -> list[list[Completion]]:
        s = self.settings
        sampling = Sampling(s.temperature, s.top_p, s.max_new_tokens, s.max_think_tokens)
        writer = Sampler(make_training_generator(model, self.bf16, s.compile is True), self.bound, sampling)
        return generate(writer, [u.prompt for u in units], keys)

    def _judged(self, unit: RolloutPrompt, rows: list[Completion]) -> Episode:
        drawn = [sorted(set(range(len(row.ids))).difference(row.forced_positions)) for row in rows]
        episode = Episode(unit.prompt.ids, [row.ids for row in rows], drawn, [row.finished for row in rows])
        for row in rows:
            text = self.bound.tokenizer.decode(row.ids[:-1] if row.finished else row.ids)
            verdict, in_form, right = self.task.judge(text, unit.label, row.finished)
            for name, value in (("texts", text), ("verdicts", verdict), ("in_form", in_form), ("right", right)):
                getattr(episode, name).append(value)
        return episode

    def log(self, episodes: list[Episode], units: Sequence[RolloutPrompt], step: int) -> None:
        """Append a batch to `completions.jsonl`, at intervals."""
        s = self.settings
        if not s.completions_every or ((step - 1) // s.updates) % s.completions_every or place()[0]:
            return
        lines = [
            {"step": step, **unit.shown, "completion": text, "finished": finished, **vars(verdict)}
            for unit, episode in zip(units, episodes)
            for text, verdict, finished in zip(episode.texts, episode.verdicts, episode.finished)
        ]
        append_text(Path(s.out) / "completions.jsonl", "".join(map(line_of, lines)))


def figures_of(episodes: list[Episode]) -> dict[str, float]:
    """Means over completions: the reward and its parts, form, accuracy, lengths; KL to the reference where it is known."""
    verdicts = [v for e in episodes for v in e.verdicts]
    spread = [statistics.pstdev([v.reward for v in e.verdicts]) for e in episodes]
    figures = {"reward": statistics.fmean(v.reward for v in verdicts)}
    figures |= {f"reward_{name}": statistics.fmean(v.parts[name] for v in verdicts) for name in verdicts[0].parts}
    figures |= {
        "format_rate": statistics.fmean(form for e in episodes for form in e.in_form),
        "accuracy": statistics.fmean(right for e in episodes for right in e.right),
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
