"""Plan of an `adapt` call: what its trainings have in common, and how weights are interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..checkpoints.resolve import Resolved, prompt_of
from ..errors import ConfigError
from ..prompts.prompt import Prompt
from ..train.settings.common_settings import Lora
from ..train.settings.score_settings import Score
from ..train.settings.stage_settings import make_settings

RATES = {"adapter": 5e-4, "weights": 3e-5}  # learning rates


class BlendWeights(NamedTuple):
    """Share of the trained weights in the result. The rest are weights of the start.

    Attributes:
        single: share for a single training.
        mean: share for the mean of several trainings.
    """

    single: float
    mean: float


DEFAULT_BLEND = BlendWeights(0.5, 0.75)  # for a start that was trained to rank
NO_BLEND = BlendWeights(1.0, 1.0)


@dataclass(frozen=True)
class AdaptationPlan:
    """What all trainings of an `adapt` call have in common.

    Attributes:
        model: name of the checkpoint to start from.
        start: its resolved files.
        blend_weights: shares of the trained weights.
        out: folder of the result.
        sources: the labels.
        settings: settings of stage `score`; `minutes` is the time of all trainings together.
        long_documents: see `Reranker`.
    """

    model: str
    start: Resolved
    blend_weights: BlendWeights
    out: Path
    sources: list[str]
    settings: dict[str, Any]
    long_documents: str = "auto"

    def folder(self, training: int, trainings: int) -> Path:
        """Return the folder of a training, counted from 0: `out` itself if it is the only one."""
        return self.out if trainings == 1 else self.out / f"fold-{training + 1}"

    def stage(self, data: Path | str, out: Path | str, trainings: int = 1, max_epochs: float | None = None) -> Score:
        """Return the settings of one training.

        Args:
            data: its training data.
            out: its run folder.
            trainings: number of trainings, which share the minutes.
            max_epochs: maximum number of passes, unless the plan's settings contain one.

        Raises:
            ConfigError: a setting is unknown, or its type or value is invalid.
        """
        values = {
            "max_epochs": max_epochs,
            **self.settings,
            "stage": "score",
            "base": self.model,
            "data": str(data),
            "out": str(out),
        }
        if trainings > 1:
            values["minutes"] /= trainings
        return cast("Score", make_settings(values, "adapt"))

    def measured_blend(self, trainings: int) -> float:
        """Return the share of trained weights in the evaluation of each training.

        With several trainings it is smaller by sqrt(trainings), because a single training varies that much more than the mean. A
        share of 1 stays 1.
        """
        share = self.blend_weights.single if trainings == 1 else self.blend_weights.mean
        return share / trainings**0.5 if share < 1 else 1.0


def choose_blend_weights(start: Resolved, blend_weight: float | None) -> BlendWeights:
    """Choose the shares of trained weights.

    Args:
        start: the checkpoint to start from.
        blend_weight: requested share; None for the default.

    Raises:
        ConfigError: the share is not above 0 and at most 1.
    """
    if blend_weight is None:
        return DEFAULT_BLEND if Prompt.load(start.folder) else NO_BLEND
    if not 0 < blend_weight <= 1:
        raise ConfigError(f"--blend must be above 0 and at most 1, not {blend_weight}")
    return BlendWeights(blend_weight, blend_weight)


def choose_settings(start: Resolved, options: dict[str, Any]) -> dict[str, Any]:
    """Choose settings of stage `score`.

    Args:
        start: the checkpoint to start from.
        options: settings of the caller, which take precedence.

    Raises:
        ConfigError: the prompt shows several documents, or an option is one that `adapt` sets.
    """
    for key in ("stage", "base"):
        if key in options:
            raise ConfigError(f"adapt: key '{key}' is set by adapt; name the checkpoint to start from as model, and omit '{key}'")
    own = {"lora": Lora(), "learning_rate": RATES["adapter"]} if start.adapter else {"learning_rate": RATES["weights"]}
    chosen = {"list_size": 6, "prompt": "echo", "dev_queries": 0, "num_evaluations": 0, **own, **options}
    for prompt in (prompt_of(start, chosen["prompt"]), Prompt.of(chosen["prompt"])):
        if prompt.lists:
            why = f"prompt {prompt.name} shows several documents, but adapt trains models that score single documents"
            raise ConfigError(f"{start.name}: {why}; use prorank train with stage score")
    return chosen
