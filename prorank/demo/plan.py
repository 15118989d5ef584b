"""What the demo trains, and for how long: the settings of its trainings, budgeted in documents.

SmolLM2-135M costs 0.21 GFLOP a token forward, and three times that with the backward pass; an adapter's training costs about 0.5.
Estimated work in TFLOP, of which two slow cores compute 0.15 a second:

| part | tokens | fp32 |
|---|---|---|
| reading, default model and adapted one (in int8: half to two thirds of the time) | 2 x 900 x 110 | 42 |
| reading, the four systems of the base (in int8) | 4 x 900 x 55 | 42 |
| adapt: 8 blocks; 10 held-out lists, before and after | 8 x 1,200; 120 x 120 | 5 + 3 |
| stage 1: 384 prompts | 384 x 50 | 12 |
| stage 2: 42 blocks | 42 x 700 | 19 |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..checkpoints.resolve import BUILT_IN
from ..data.beir import read_beir
from ..train.settings.stage_settings import Score, Warmup
from .task_files import TaskPaths
from .training_lists import write_blocks, write_warmup_lists

TEST_QUERIES = 180
# Tokens of a prompt, whose first words say what a section is about: of the default model, of the base's in reading and in training.
DEFAULT_LENGTH, READ_LENGTH, WARMUP_LENGTH, SCORE_LENGTH = 112, 60, 56, 60
PROMPT = "plain"  # a small model learns from it soonest, and it costs the least
WARMUP_QUERIES, WARMUP_BATCH = 192, 8  # a query is two prompts
# Scaled rewards bring the form sooner than the recipe's unscaled ones, which pays in so short a warm-up.
WARMUP_OBJECTIVE: dict[str, Any] = {"scale_rewards": "group", "entropy_weight": 0.3}
BLOCK_SIZE, SCORE_BLOCKS, SCORE_BATCH = 6, 42, 1
ADAPT_BLOCKS, ADAPT_HELD_OUT, ADAPT_WORDS = 8, 10, 50  # blocks, queries, words of a document
# Shares of `--minutes` after which a training is cut short; together with the measurements they fill it.
STOPWATCH = {"adapt": 0.12, "warmup": 0.14, "score": 0.24}


@dataclass(frozen=True)
class DemoPlan:
    """What one run of the demo works on.

    Attributes:
        out: folder of its runs and report.
        minutes: limit, see `STOPWATCH`.
        seed: of lists and trainings.
        paths: the task.
    """

    out: Path
    minutes: float
    seed: int
    paths: TaskPaths

    @property
    def adapted(self) -> Path:
        """Folder of the adaptation."""
        return self.out / "adapted"

    def write_lists(self) -> None:
        """Write the training lists, unless they are there."""
        train = read_beir(self.paths.train, "train")
        write_warmup_lists(train, WARMUP_QUERIES, self.out / "warmup.jsonl", self.seed)
        write_blocks(train, BLOCK_SIZE, SCORE_BLOCKS, self.out / "score.jsonl", self.seed)
        write_blocks(train, BLOCK_SIZE, ADAPT_BLOCKS, self.out / "adapt.jsonl", self.seed, ADAPT_WORDS)

    def stages(self) -> tuple[Warmup, Score]:
        """Settings of the two stages from the base."""
        common: dict[str, Any] = {
            "prompt": PROMPT, "max_length": READ_LENGTH, "seed": self.seed, "max_epochs": 1.0, "dtype": "fp32", "compile": False,
            "dev_queries": 0, "num_evaluations": 0, "save_every": 0, "log_every": 1, "learning_rate": 1e-4,
        }  # fmt: skip
        warmup = Warmup(
            base=BUILT_IN, data=str(self.out / "warmup.jsonl"), out=str(self.out / "warmup"), batch_size=WARMUP_BATCH, beta=0.0,
            train_length=WARMUP_LENGTH, minutes=self.minutes * STOPWATCH["warmup"], **WARMUP_OBJECTIVE, **common,
        )  # fmt: skip
        score = Score(
            base=str(self.out / "warmup"), data=str(self.out / "score.jsonl"), out=str(self.out / "score"), batch_size=SCORE_BATCH,
            train_length=SCORE_LENGTH, list_size=BLOCK_SIZE, minutes=self.minutes * STOPWATCH["score"],
            loss={"listnet": 1.0, "bce": 0.1}, **common,
        )  # fmt: skip
        return warmup, score

    def adapt_options(self) -> dict[str, Any]:
        """Options of `prorank.adapt`."""
        return {
            "data": self.out / "adapt.jsonl", "model": DEFAULT, "out": self.adapted, "minutes": self.minutes * STOPWATCH["adapt"],
            "held_out": ADAPT_HELD_OUT, "seed": self.seed, "keep_anyway": True, "max_epochs": 1.0, "batch_size": 1,
            "dtype": "fp32", "compile": False, "save_every": 0, "log_every": 1,
        }  # fmt: skip
