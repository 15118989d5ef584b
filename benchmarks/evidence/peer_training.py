"""sentence-transformers' own training of a causal language model as a CrossEncoder, within a budget; an arm of `recipe.py`.

The peer starts from the same scores: its modules for causal models (Transformer for text generation, LogitScore) get our prompt as
chat template and our answer tokens. Before training both give equal rankings; trainer, loss, learning rate and speed differ.

Its guide for rerankers is followed: labelled pairs with BinaryCrossEntropyLoss, relevant ones weighted by the number of other
documents per list, and a linear schedule with a warm-up of a tenth (or LambdaLoss over whole lists, the other loss in the guide).
Documents are truncated in advance, because its own truncation would remove the query after the document. The head computes in fp32,
as in our stages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss
from sentence_transformers.cross_encoder.modules import LogitScore, Transformer
from transformers import TrainerCallback

from prorank.checkpoints.loading import load_tokenizer, pick_device
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.data.examples import Group, list_groups, sample_lists
from prorank.data.formats import read_groups
from prorank.engine.auto import pick_dtype
from prorank.engine.heads import use_fp32_head
from prorank.engine.layer_speed import TRAINING
from prorank.errors import ConfigError
from prorank.prompts.pair_encoder import PairPromptEncoder
from prorank.prompts.prompt import Prompt
from prorank.train.micro_batches import LONG_RUN
from prorank.train.schedule import COMPLETE, Clock, checkpoints
from prorank.utils.files import atomic_file

RISE = 0.1  # share of the budget over which the learning rate rises
DRAWS = 4  # maximum number of samples of each list in the dataset, which the trainer then repeats


@dataclass(frozen=True)
class Peer:
    """Settings of a run. The budget is `minutes` of training or `steps`; a step has `lists` lists of `list_size` documents."""

    base: str
    data: str
    out: str
    minutes: float | None = None
    steps: int | None = None
    loss: str = "bce"
    learning_rate: float = 2e-5
    lists: int = 4
    list_size: int = 4
    prompt: str = "echo"
    max_length: int = 256
    train_length: int = 144
    save_every: int = 50
    seed: int = 0
    dtype: str = "auto"
    device: str | None = None


class PeerTrainer(CrossEncoderTrainer):
    """The peer's trainer, whose schedule may depend on time and whose incomplete checkpoints are ignored."""

    def __init__(self, clock: Clock, **named: Any) -> None:
        self.clock = clock
        super().__init__(**named)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.clock.budget is None:
            return super().create_scheduler(num_training_steps, optimizer)

        def factor(step: int) -> float:  # linear rise and decay as by default, over the minutes
            spent = min(1.0, self.clock.minutes() / self.clock.budget)
            return min(max(spent, 1e-3) / RISE, (1 - spent) / (1 - RISE))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        with self.clock.paused():
            super()._save_checkpoint(*arguments, **named)
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            (folder / "run.json").write_text(json.dumps({"minutes": self.clock.minutes()}))
            (folder / COMPLETE).touch()


class Stop(TrainerCallback):
    """Stops training at the end of the minutes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.clock.budget is not None and self.clock.minutes() >= self.clock.budget:
            control.should_training_stop = True


def cut(encoder: PairPromptEncoder, query: str, documents: Sequence[str]) -> list[str]:
    """Return the parts of the documents that fit into the prompt with this query."""
    shown = []
    for document, prompt in zip(documents, encoder.encode_many(query, list(documents))):
        kept = prompt.document_end - prompt.document_start
        if prompt.document_cut:
            ends = encoder.tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            document = document[: ends[kept - 1][1]] if kept else ""
        shown.append(document)
    return shown


def rows_of(groups: Sequence[Group], encoder: PairPromptEncoder, settings: Peer) -> list[dict[str, Any]]:
    """Return training rows from the lists that stage score samples, in its order: pairs with a label, or lists with labels."""
    draws = min(DRAWS, math.ceil(settings.steps * settings.lists / len(groups))) if settings.steps else DRAWS
    drawn = [g for epoch in range(draws) for g in sample_lists(groups, settings.list_size, settings.seed, epoch)]
    lists = [(g.query, cut(encoder, g.query, g.documents), [float(label > 0) for label in g.labels]) for g in drawn]
    if settings.loss == "lambda":
        return [{"query": query, "docs": documents, "labels": labels} for query, documents, labels in lists]
    return [{"query": q, "document": d, "label": label} for q, docs, labels in lists for d, label in zip(docs, labels)]


def model_of(settings: Peer, encoder: PairPromptEncoder) -> CrossEncoder:
    """Return the base as the peer's CrossEncoder with our prompt."""
    transformer = Transformer(
        str(resolve(settings.base).path), transformer_task="text-generation", model_kwargs={"dtype": torch.float32},
        processor_kwargs={"chat_template": encoder.chat_template()}, processing_kwargs={"text": {"truncation": False}},
    )  # fmt: skip
    if transformer.tokenizer.pad_token is None:  # some versions of transformers write none when they convert a GGUF file
        transformer.tokenizer.pad_token = encoder.tokenizer.pad_token
    no, yes = encoder.answer_ids
    return CrossEncoder(modules=[transformer, LogitScore(yes, no)], device=str(pick_device(settings.device)))


def train_peer(settings: Peer) -> Path:
    """Train within the budget, from the newest complete checkpoint of the run folder if there is one. Returns `<out>/model`."""
    run, resolved = Path(settings.out), resolve(settings.base)
    tokenizer = load_tokenizer(resolved)
    encoder = Prompt.preset(settings.prompt, max_length=settings.max_length).bind(tokenizer)
    short = Prompt.preset(settings.prompt, max_length=settings.train_length).bind(tokenizer)
    torch.manual_seed(settings.seed)
    model = model_of(settings, encoder)
    use_fp32_head(model.model)
    _claim(run, settings)
    clock, rows = Clock(settings.minutes), rows_of(list_groups(read_groups(settings.data)), short, settings)
    trainer = PeerTrainer(
        clock, model=model, args=_arguments(settings, model), train_dataset=Dataset.from_list(rows), loss=_loss(model, settings),
        callbacks=[Stop(clock)],
    )  # fmt: skip
    last = (checkpoints(run) or [None])[-1]
    clock.spent = json.loads((last / "run.json").read_text())["minutes"] * 60 if last else 0.0
    clock.start()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    save_checkpoint(run / "model", model.model, encoder)
    with atomic_file(run / "done.json") as handle:
        json.dump({"step": trainer.state.global_step, "minutes": clock.minutes()}, handle)
    return run / "model"


def _claim(run: Path, settings: Peer) -> None:
    """Write the settings. Raises ConfigError for a run with other settings."""
    text = yaml.safe_dump({"stage": "sentence-transformers", **asdict(settings)}, sort_keys=False)
    stored = run / "config.yaml"
    if stored.is_file() and stored.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{stored}: the settings differ from those of the run; choose another folder")
    with atomic_file(stored) as handle:
        handle.write(text)


def _loss(model: CrossEncoder, settings: Peer) -> torch.nn.Module:
    if settings.loss == "lambda":
        return LambdaLoss(model)
    return BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(settings.list_size - 1)))


def _arguments(settings: Peer, model: CrossEncoder) -> CrossEncoderTrainingArguments:
    documents = settings.lists * (1 if settings.loss == "lambda" else settings.list_size)  # dataset rows per step
    bf16 = pick_dtype(settings.dtype, model.device, model.config, TRAINING) == torch.bfloat16
    return CrossEncoderTrainingArguments(
        output_dir=settings.out, max_steps=settings.steps or LONG_RUN, per_device_train_batch_size=documents,
        learning_rate=settings.learning_rate, warmup_steps=RISE, seed=settings.seed, data_seed=settings.seed,
        bf16=bf16, use_cpu=model.device.type == "cpu", logging_steps=10,
        save_strategy="steps", save_steps=settings.save_every, save_total_limit=2, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
