"""The stages of training by name.

To add a stage, write a file with a StageSpec, and add its settings class to `STAGE_SETTINGS` and an entry here.
"""

from __future__ import annotations

from .order import ORDER
from .reason import REASON
from .score import SCORE
from .sft import SFT
from .stage_spec import StageSpec
from .warmup import WARMUP

STAGES: dict[str, StageSpec] = {"warmup": WARMUP, "score": SCORE, "order": ORDER, "sft": SFT, "reason": REASON}
