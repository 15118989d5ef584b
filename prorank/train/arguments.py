"""Arguments of `transformers.Trainer` for a run, and the schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainingArguments

from .settings.common_settings import Settings


def arguments_of(settings: Settings, steps: int, accumulated: int, bf16: bool, on_cpu: bool) -> TrainingArguments:
    """Return the Trainer's arguments.

    Args:
        settings: settings of the run.
        steps: maximum number of optimiser steps.
        accumulated: number of micro-batches per step.
        bf16: autocast to bf16.
        on_cpu: whether the model is on the CPU.
    """
    s = settings
    return TrainingArguments(
        output_dir=s.out,
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulated,
        learning_rate=s.learning_rate,
        weight_decay=s.weight_decay,
        max_grad_norm=s.max_grad_norm,
        adam_beta2=0.98,  # runs are short and gradients shrink tenfold; .999 would average over too many steps
        lr_scheduler_type="constant",
        bf16=bf16,
        use_cpu=on_cpu,
        logging_steps=min(s.log_every, steps),
        logging_nan_inf_filter=False,  # it would hide losses that are not finite
        save_strategy="no",
        report_to=["tensorboard"] if s.tensorboard else [],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        seed=s.seed,
        log_level="error",
    )


def rate_factor(settings: Settings, steps: int, progress: Callable[[int], float]) -> Callable[[int], float]:
    """Return a function from step to the factor of the learning rate: linear warm-up, then linear decay to a tenth.

    Both depend on the used share of the budget, in steps or minutes. The result is a function and not an object, because LambdaLR
    writes the state of objects into checkpoints.

    Args:
        settings: `warmup_ratio` and `minutes`.
        steps: maximum number of optimiser steps.
        progress: returns the used share of the budget at a step.
    """
    rise, by_steps = settings.warmup_ratio, settings.minutes is None

    def factor(step: int) -> float:
        spent = progress(step)
        first = max(rise, 1 / steps) if by_steps else rise
        # (step + 1), so that the rate of the first step is above 0.
        begun = (step + 1) / (first * steps) if by_steps else (spent + 1e-3) / max(first, 1e-3)
        return min(1.0, begun, 1.0 - 0.9 * max(0.0, spent - first) / max(1 - first, 1e-9))

    return factor
