"""What the trainings of one `adapt` have in common: the start, the settings of stage `score`, and how weights are interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.resolve import Resolved, prompt_of
from ..errors import ConfigError
from ..prompts.prompt import Prompt
from ..train.settings.common_settings import Lora

RATES = {"adapter": 5e-4, "weights": 3e-5}  # learning rates


class BlendWeights(NamedTuple):
    """Share of the trained weights in the result, the rest being those of the start.

    `single` is that of one training, `mean` that of the mean of several trainings.
    """

    single: float
    mean: float


DEFAULT_BLEND = BlendWeights(0.5, 0.75)  # if the start has learnt to rank
NO_BLEND = BlendWeights(1.0, 1.0)


@dataclass(frozen=True)
class AdaptationPlan:
    """What all trainings of one `adapt` have in common.

    Attributes:
        model: name of the checkpoint to start from; `start` is what it stands for.
        blend_weights: shares of the trained weights.
        out: folder of the result.
        sources: the labels.
        settings: of stage `score`, with `minutes` of all trainings and `seed`.
    """

    model: str
    start: Resolved
    blend_weights: BlendWeights
    out: Path
    sources: list[str]
    settings: dict[str, Any]

    def folder(self, training: int, trainings: int) -> Path:
        """The folder of a training, counted from 0: `out` itself if it is the only one."""
        return self.out if trainings == 1 else self.out / f"fold-{training + 1}"

    def measured_blend(self, trainings: int) -> float:
        """The share of its weights that each training is measured with.

        One of several gets a share smaller by sqrt(trainings), as it varies that much more than their mean. A share of 1 stays 1.
        """
        share = self.blend_weights.single if trainings == 1 else self.blend_weights.mean
        return share / trainings**0.5 if share < 1 else 1.0


def choose_blend_weights(start: Resolved, blend_weight: float | None) -> BlendWeights:
    """The shares of trained weights for this start. Raises ConfigError for one outside of 0..1."""
    if blend_weight is None:
        return DEFAULT_BLEND if Prompt.load(start.folder) else NO_BLEND
    if not 0 < blend_weight <= 1:
        raise ConfigError(f"--blend must be above 0 and at most 1, not {blend_weight}")
    return BlendWeights(blend_weight, blend_weight)


def choose_settings(start: Resolved, options: dict[str, Any]) -> dict[str, Any]:
    """Settings of stage `score` for this start.

    Raises:
        ConfigError: a prompt of several documents, whose answers cannot be measured here.
    """
    own = {"lora": Lora(), "learning_rate": RATES["adapter"]} if start.adapter else {"learning_rate": RATES["weights"]}
    chosen = {"list_size": 6, "prompt": "echo", "dev_queries": 0, "num_evaluations": 0, **own, **options}
    for prompt in (prompt_of(start, chosen["prompt"]), Prompt.of(chosen["prompt"])):
        if prompt.lists:
            why = f"prompt {prompt.name} shows several documents, and adapt trains models that judge each alone"
            raise ConfigError(f"{start.name}: {why}; use stage score itself")
    return chosen
