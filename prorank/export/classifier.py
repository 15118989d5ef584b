"""Write a checkpoint for other servers: a one-logit classifier, or a plain causal model with its adapter merged.

The classifier's one row is the difference of the two answers' rows, so its logit is our score; a head's bias has no
place there, and such a model is refused.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoints.card import hub_base, merged_card, read_card
from ..checkpoints.loading import load_model, load_tokenizer, without_bars
from ..checkpoints.resolve import licence_of, prompt_of, resolve
from ..checkpoints.saving import name_as_before, save_checkpoint, write_json
from ..engine.heads import answer_rows
from ..engine.modules import body, cast_weights, room_for_prompts
from ..errors import ConfigError, ModelError, nearest
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.prompt import Prompt
from ..utils.files import atomic_folder, check_folder
from ..utils.loading_lock import one_at_a_time
from .notes import causal_command, classifier_notes, serve_command
from .pair_template import baked, rendering, room_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMATS = ("seq-cls", "merged")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = 1e-4  # between the classifier's logits and the scores, in fp32
PROBES = [
    ("where is the garden?", "The garden is near the river."),
    ("where is the garden?", "x"),
    ("how do vaccines work", "Vaccines train the immune system to know a germ before it meets it. " * 8),
    ("42", "Grüße aus dem Garten, 图书馆 🦊"),
]


@dataclass(frozen=True)
class Exported:
    """What was written. `difference`: the largest between classifier and model over `pairs` tried pairs, None where nothing was
    tried; `command`: vLLM's, for this folder."""

    folder: Path
    format: str
    command: str
    difference: float | None = None
    pairs: int = 0

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.folder}: a plain causal model"
        return f"{self.folder}: scores differ from the model's by {self.difference:.1e} at most over {self.pairs} pairs"


def export(
    model: str | Path, out: str | Path, format: str = "seq-cls", dtype: str = "fp32", template: bool = True, prompt: Any = None,
    instruction: str | None = None, max_length: int | None = None, base: str | Path | None = None, trust_remote_code: bool = False,
) -> Exported:  # fmt: skip
    """Write a checkpoint into a new folder for other libraries and servers.

    Args:
        model: as `Reranker` takes it.
        out: the folder to make; it must not exist, or be empty.
        format: "seq-cls" (a ...ForSequenceClassification whose one logit is the score) or "merged" (a causal LM, no adapter).
        dtype: "fp32" or "bf16" of the weights written.
        template: bake the Prompt into the tokenizer of a classifier; without, callers have to render it.
        prompt, max_length, base, trust_remote_code: as `Reranker` takes them.
        instruction: in place of the Prompt's default one.

    Raises:
        ConfigError: unknown format or dtype, or a folder that is there. ModelError: the model does not fit into a classifier, or
        its logits came out different. PromptError: the Prompt does not fit into a pair template.
    """
    folder = Path(out)
    _check(folder, format, dtype)
    resolved, changes = resolve(model, base, trust_remote_code), {"instruction": instruction, "max_length": max_length}
    chosen = Prompt.of(prompt or prompt_of(resolved), **{key: value for key, value in changes.items() if value is not None})
    if format == "seq-cls" and chosen.lists:
        raise ConfigError(f"prompt {chosen.name} shows several documents, and a classifier reads one; take --format merged")
    tokenizer = load_tokenizer(resolved)
    (chosen.bind_list if chosen.lists else chosen.bind)(tokenizer)  # fails before the weights are read
    loaded = load_model(resolved, torch.float32, torch.device("cpu"))
    about = (resolved.name, hub_base(resolved.name, resolved.folder), licence_of(resolved.name, resolved.folder))
    if format == "merged":
        base = resolved.base if resolved.adapter else ""
        card = merged_card(str(folder), *about, base, dtype, read_card(resolved.folder), chosen.lists)
        return _merged(folder, loaded, chosen, tokenizer, DTYPES[dtype], card)
    bound = chosen.bind(tokenizer, room_for_prompts(loaded)).direct()
    return _classifier(folder, loaded, bound, DTYPES[dtype], template, about)


def _check(folder: Path, format: str, dtype: str) -> None:
    """Raise ConfigError for a folder that holds something, an unknown format or dtype."""
    for name, value, known in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise ConfigError(f"unknown {name} '{value}'{nearest(value, known)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; name a new folder, or remove it first")
    check_folder(folder)


def _merged(folder: Path, model: PreTrainedModel, prompt: Prompt, tokenizer: Any, dtype: torch.dtype, card: str | None) -> Exported:
    """Save the causal model, whose adapter was merged when it was loaded."""
    bound = (prompt.bind_list if prompt.lists else prompt.bind)(tokenizer, room_for_prompts(model))
    save_checkpoint(folder, cast_weights(model, dtype), bound, card=card)
    return Exported(folder, "merged", causal_command(folder, model.config, bound))


def _classifier(
    folder: Path, model: PreTrainedModel, bound: PairPromptEncoder, dtype: torch.dtype, template: bool,
    about: tuple[str, str | None, str],
) -> Exported:  # fmt: skip
    """Save the classifier with tokenizer, prompt and notes, once it was read back and tried.

    `about`: name, hub id and licence of the checkpoint it is made from.
    """
    pad = padding(bound)
    tokenizer = (baked if template else rendering)(bound, pad)
    pairs = _probes(bound)
    if not pairs:
        raise ConfigError(f"{bound.longest} tokens leave no room to try the classifier; raise --max-length")
    want = _scores(model, bound, pairs)
    classifier = cast_weights(classifier_of(model, bound, bound.tokenizer.convert_tokens_to_ids(pad)), dtype)
    with atomic_folder(folder) as beside:
        with without_bars():
            classifier.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        name_as_before(beside)
        bound.prompt.save(beside)
        if template and bound.repeats == 1:
            write_json(beside / "sentence_bert_config.json", {"max_seq_length": room_of(bound)})
        notes = classifier_notes(folder, bound, type(classifier).__name__, room_of(bound), template, *about)
        (beside / "README.md").write_text(notes, encoding="utf-8")
        difference = float((_logits(beside, bound, pairs, template) - want).abs().max())
        if dtype == torch.float32 and not difference <= TOLERANCE * max(1.0, float(want.abs().max())):
            raise ModelError(f"{folder}: the classifier's logits differ by {difference:.1e} from the scores; nothing was written")
    return Exported(folder, "seq-cls", serve_command(folder, template), difference, len(pairs))


def _probes(bound: PairPromptEncoder) -> list[tuple[str, str]]:
    """Pairs to try: those whose query is whole, and their documents, too, where the query comes again behind them."""
    found = [(pair, bound.encode(*pair)) for pair in PROBES]
    return [pair for pair, encoded in found if not encoded.query_cut and (bound.repeats == 1 or len(encoded.ids) <= room_of(bound))]


def classifier_of(model: PreTrainedModel, bound: PairPromptEncoder, pad_id: int) -> PreTrainedModel:
    """A classifier around the body of a causal LM (shared, not copied). Raises ModelError where transformers has none for it, or
    the head has a bias."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as KINDS

    rows, bias = answer_rows(model, bound.answer_ids)
    if float((bias[1] - bias[0]).detach()):
        raise ModelError(f"{type(model).__name__}: its head has a bias, which one row cannot hold; take --format merged")
    kind: Any = KINDS.get(type(model.config), None)
    if kind is None:
        raise ModelError(f"transformers has no classifier for {type(model).__name__}; take --format merged")
    config = copy.deepcopy(model.config)
    config.num_labels, config.id2label, config.label2id = 1, {0: "relevance"}, {"relevance": 0}
    config.pad_token_id, config.architectures = pad_id, [kind.__name__]
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}  # raw log-odds, as ours
    with torch.device("meta"):
        classifier = kind(config)
    if not hasattr(classifier, "score") or getattr(classifier.score, "bias", None) is not None:
        raise ModelError(f"{kind.__name__}: its head is not one row of weights; take --format merged")
    setattr(classifier, classifier.base_model_prefix, body(model)[0])
    classifier.score.weight = torch.nn.Parameter((rows[1] - rows[0])[None], requires_grad=False)
    return classifier.eval()


def padding(bound: PairPromptEncoder) -> str:
    """A token to pad with that prompts do not end with: classifiers read the last token that is not padding."""
    tokenizer = bound.tokenizer
    last = bound.encode("query", "document").ids[-1]
    for token in dict.fromkeys([tokenizer.pad_token, tokenizer.eos_token, *tokenizer.all_special_tokens]):
        if token and tokenizer.convert_tokens_to_ids(token) != last:
            return token
    raise ModelError("the tokenizer has no special token to pad with but the one that its prompts end with")


def _scores(model: PreTrainedModel, bound: PairPromptEncoder, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Our scores of pairs, [n]."""
    from ..reranker import Reranker

    return torch.from_numpy(Reranker.of(model, bound.tokenizer, Prompt.of(bound.prompt)).score(pairs))


@one_at_a_time
@torch.inference_mode()
def _logits(folder: Path, bound: PairPromptEncoder, pairs: list[tuple[str, str]], template: bool) -> torch.Tensor:
    """The written classifier's logits of pairs [n], read as any library would read it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with without_bars():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if template:
        batch = tokenizer(*map(list, zip(*pairs)), padding=True, truncation="only_second", return_tensors="pt")
    else:
        batch = tokenizer.pad({"input_ids": [bound.encode(*pair).ids for pair in pairs]}, return_tensors="pt")
    return model(**batch).logits[:, 0]
