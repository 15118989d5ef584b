"""Episodes: completions that a policy generates for a batch of prompts, in all processes together, with their rewards.

The random numbers of a completion are seeded by (seed, batch, prompt, sample), so they are the same in every process and after a
resume.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...data.jsonl import line_of
from ...engine.generation import Sampler, generate, make_training_generator
from ...engine.sampling import Completion, Sampling
from ...prompts.prompt import AnyPromptEncoder
from ...rewards.rules import Verdict
from ...utils.files import append_text
from ..distributed import place
from ..settings.stage_settings import Reason
from ..value_head import policy_of
from .reason_tasks import ReasonTask, RolloutPrompt

Rows = list[torch.Tensor]  # a tensor for each completion, [sampled tokens]
LABEL_FIGURES = {1: "accuracy_yes", 0: "accuracy_no"}
TENSORS = ("now", "old", "reference", "values", "advantages", "returns")


@dataclass
class Episode:
    """The completions of one prompt.

    Attributes:
        prompt: ids of the prompt.
        rows: ids of each completion.
        drawn: indices of the sampled tokens in each completion; the others were forced.
        finished: whether each completion reached its end-of-sequence token.
        texts, verdicts: texts and rewards of the completions.
        in_form: whether each completion has the right tags and an answer.
        right: whether each completion has the right answer.
        cut: whether the thought of each completion was closed because of its length.
        label: label of the prompt, see `RolloutPrompt.label`.
        now, old, reference: log-probabilities of the sampled tokens under the policy before any step, under the policy on the first
            pass, and under the reference.
        values, advantages, returns: values, advantages and returns of the sampled tokens, if the algorithm needs them.
    """

    prompt: list[int]
    rows: list[list[int]]
    drawn: list[list[int]]
    finished: list[bool]
    texts: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    in_form: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    label: Any = None
    now: Rows = field(default_factory=list)
    old: Rows = field(default_factory=list)
    reference: Rows = field(default_factory=list)
    values: Rows = field(default_factory=list)
    advantages: Rows = field(default_factory=list)
    returns: Rows = field(default_factory=list)

    @property
    def has_variance(self) -> bool:
        """Whether the rewards of the completions differ, so that GRPO can learn from them."""
        return len({verdict.reward for verdict in self.verdicts}) > 1


class Rollouts:
    """Generates and judges completions.

    Args:
        encoder: a thinking prompt.
        settings: see Reason.
        task: judges completions.
        bf16: generate in bf16.
    """

    def __init__(self, encoder: AnyPromptEncoder, settings: Reason, task: ReasonTask, bf16: bool) -> None:
        self.encoder, self.settings, self.task, self.bf16 = encoder, settings, task, bf16

    def generate(
        self, model: torch.nn.Module, examples: Sequence[RolloutPrompt], samples: int, name: str, number: int = 0,
        annotate: Callable[[torch.nn.Module, list[Episode]], None] | None = None,
    ) -> list[Episode]:  # fmt: skip
        """Generate episodes of the prompts, in their order. Each process generates a share and returns all episodes.

        Args:
            model: the policy, or a PolicyWithValue.
            examples: the prompts.
            samples: number of completions per prompt.
            name, number: name and number of the batch, which seed the sampling together with each example's key.
            annotate: called with this process's episodes before they are gathered.
        """
        rank, world = place()
        share = examples[rank::world]
        keys = [[f"{self.settings.seed}/{name}/{number}/{e.key}/{k}" for k in range(samples)] for e in share]
        training = model.training
        model.eval()
        episodes = [self._judged(example, rows) for example, rows in zip(share, self._completions(model, share, keys))]
        if annotate:
            annotate(model, episodes)
        model.train(training)
        return _gathered(episodes, next(model.parameters()).device)

    def replace_equal(
        self, model: torch.nn.Module, examples: list[RolloutPrompt], episodes: list[Episode], number: int,
        annotate: Callable[[torch.nn.Module, list[Episode]], None],
    ) -> int:  # fmt: skip
        """Replace prompts whose completions all have the same reward by others, in place, in at most `dynamic_rounds` rounds.

        Args:
            model, number, annotate: see `generate`.
            examples, episodes: the batch.

        Returns:
            The number of prompts that were replaced.
        """
        replaced = 0
        for attempt in range(1, self.settings.dynamic_rounds + 1):
            places = [i for i, episode in enumerate(episodes) if not episode.has_variance]
            if not places:
                break
            others = [self.task.substitute(examples[i], attempt) for i in places]
            name = f"train, attempt {attempt}"
            for i, example, episode in zip(
                places, others, self.generate(model, others, self.settings.num_generations, name, number, annotate)
            ):
                if episode.has_variance:
                    examples[i], episodes[i], replaced = example, episode, replaced + 1
        return replaced

    def _completions(
        self, model: torch.nn.Module, examples: Sequence[RolloutPrompt], keys: list[list[str]]
    ) -> list[list[Completion]]:
        s = self.settings
        sampling = Sampling(s.temperature, s.top_p, s.max_new_tokens, s.max_think_tokens)
        generator = make_training_generator(policy_of(model), self.bf16, s.compile is True)
        return generate(Sampler(generator, self.encoder, sampling), [e.prompt for e in examples], keys)

    def _judged(self, example: RolloutPrompt, rows: list[Completion]) -> Episode:
        drawn = [sorted(set(range(len(row.ids))).difference(row.forced_positions)) for row in rows]
        episode = Episode(example.prompt.ids, [row.ids for row in rows], drawn, [row.finished for row in rows], label=example.label)
        episode.cut = [row.thought_truncated for row in rows]
        for row in rows:
            text = self.encoder.tokenizer.decode(row.ids[:-1] if row.finished else row.ids)
            judgement = self.task.judge(text, example.label, row.finished)
            episode.texts.append(text)
            episode.verdicts.append(judgement.verdict)
            episode.in_form.append(judgement.in_form)
            episode.right.append(judgement.right)
        return episode

    def log(self, episodes: list[Episode], examples: Sequence[RolloutPrompt], step: int) -> None:
        """Append the episodes of a batch to `completions.jsonl`, every `completions_every` batches."""
        s = self.settings
        if not s.completions_every or ((step - 1) // s.updates) % s.completions_every or place()[0]:
            return
        lines = [
            {"step": step, **example.shown, "completion": text, "finished": finished, **vars(verdict)}
            for example, episode in zip(examples, episodes)
            for text, verdict, finished in zip(episode.texts, episode.verdicts, episode.finished)
        ]
        append_text(Path(s.out) / "completions.jsonl", "".join(map(line_of, lines)))


def figures_of(episodes: list[Episode]) -> dict[str, float]:
    """Return means over completions: reward and its parts, format, accuracy, lengths, and KL to the reference if it is known."""
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
        "groups_with_variance": statistics.fmean(e.has_variance for e in episodes),
        "thoughts_cut": statistics.fmean(cut for e in episodes for cut in e.cut),
    }
    now = [row for e in episodes for row in e.old or e.now]
    then = [row for e in episodes for row in e.reference]
    if now and then:
        figures["kl"] = float((torch.cat(now) - torch.cat(then)).mean())
    return figures


def accuracy_by_label(episodes: list[Episode]) -> dict[str, float]:
    """Return the accuracy of prompts with label 1 and with label 0, where there are any.

    Args:
        episodes: those of a whole batch. In a part of one, or in one process, a label may be missing.
    """
    rights = {name: [r for e in episodes if e.label == label for r in e.right] for label, name in LABEL_FIGURES.items()}
    return {name: statistics.fmean(right) for name, right in rights.items() if right}


def by_episode(flat: torch.Tensor, sizes: list[int], episodes: list[Episode]) -> list[list[torch.Tensor]]:
    """Split values [sum of sizes] into the rows of each episode."""
    rows = iter(flat.split(sizes))
    return [[next(rows) for _ in e.rows] for e in episodes]


def concatenated(episodes: list[Episode], name: str) -> torch.Tensor:
    """Concatenate a tensor of the episodes, on the CPU."""
    return torch.cat([row.cpu() for e in episodes for row in getattr(e, name)])


def _gathered(episodes: list[Episode], device: torch.device) -> list[Episode]:
    """Gather the episodes of all processes in the order of the examples, which were distributed in turn, on `device`."""
    _, world = place()
    if world == 1:
        return episodes
    parts: list[list[Episode]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(parts, [_moved(e, torch.device("cpu")) for e in episodes])
    return [_moved(parts[i % world][i // world], device) for i in range(sum(map(len, parts)))]


def _moved(episode: Episode, device: torch.device) -> Episode:
    for name in TENSORS:
        setattr(episode, name, [row.to(device) for row in getattr(episode, name)])
    return episode
