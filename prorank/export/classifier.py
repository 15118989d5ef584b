"""Turn a causal LM into a classifier with one logit, which is the score.

The weights of the logit are the difference of the two answers' rows in the LM head. Models whose head has a bias are refused,
because the classifier has none.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..checkpoints.loading import without_bars
from ..checkpoints.saving import name_as_before, write_json
from ..engine.heads import answer_rows
from ..engine.modules import body
from ..errors import ConfigError, ModelError
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.prompt import Prompt
from ..utils.loading_lock import one_at_a_time
from .pair_template import baked_tokenizer, max_pair_tokens, plain_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBES = [
    ("where is the garden?", "The garden is near the river."),
    ("where is the garden?", "x"),
    ("how do vaccines work", "Vaccines train the immune system to know a germ before it meets it. " * 8),
    ("42", "Grüße aus dem Garten, 图书馆 🦊"),
]


class Classifier(NamedTuple):
    """A classifier and what is needed to save and test it.

    Attributes:
        model: the classifier; shares the body of the causal LM.
        tokenizer: transformers tokenizer for pairs.
        pairs: n (query, document) texts for a test.
        scores: the causal LM's scores [n] of the pairs.
    """

    model: PreTrainedModel
    tokenizer: Any
    pairs: list[tuple[str, str]]
    scores: torch.Tensor


def make_classifier(model: PreTrainedModel, encoder: PairPromptEncoder, template: bool) -> Classifier:
    """Build a classifier around a causal LM, which is scored first.

    Args:
        model: the causal LM.
        encoder: encoder of its prompt.
        template: make the prompt part of the tokenizer.

    Raises:
        ConfigError: the prompt's maximum length is too small for a test.
        ModelError: see `build_classifier` and `padding_token`.
        PromptError: a pair template cannot express the prompt.
    """
    pad = padding_token(encoder)
    tokenizer = (baked_tokenizer if template else plain_tokenizer)(encoder, pad)
    pairs = probe_pairs(encoder, "classifier")
    scores = model_scores(model, encoder, pairs)
    classifier = build_classifier(model, encoder, encoder.tokenizer.convert_tokens_to_ids(pad))
    return Classifier(classifier, tokenizer, pairs, scores)


def save_tokenizer(folder: Path, tokenizer: Any, encoder: PairPromptEncoder, template: bool) -> None:
    """Save the tokenizer of a classifier, its prompt and its maximum length beside its config.json.

    Args:
        folder: folder of the export.
        tokenizer: from `make_classifier`.
        encoder: encoder of the prompt.
        template: whether the prompt is part of the tokenizer.
    """
    tokenizer.save_pretrained(folder)
    name_as_before(folder)
    encoder.prompt.save(folder)
    if template and encoder.repeats == 1:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_pair_tokens(encoder)})


def build_classifier(model: PreTrainedModel, encoder: PairPromptEncoder, pad_id: int) -> PreTrainedModel:
    """Build a classifier around the body of a causal LM, which is shared and not copied.

    Args:
        model: the causal LM.
        encoder: encoder of its prompt, for the ids of the two answers.
        pad_id: id of the padding token.

    Raises:
        ModelError: transformers has no classifier for this model, or the head has a bias.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES

    rows, bias = answer_rows(model, encoder.answer_ids)
    if float((bias[1] - bias[0]).detach()):
        raise ModelError(f"{type(model).__name__}: its head has a bias, which a classifier cannot have; use --format merged")
    classifier_class: Any = CLASSES.get(type(model.config), None)
    if classifier_class is None:
        raise ModelError(f"transformers has no classifier for {type(model).__name__}; use --format merged")
    config = copy.deepcopy(model.config)
    config.num_labels, config.id2label, config.label2id = 1, {0: "relevance"}, {"relevance": 0}
    config.pad_token_id, config.architectures = pad_id, [classifier_class.__name__]
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}  # raw log-odds, like our scores
    with torch.device("meta"):
        classifier = classifier_class(config)
    if not hasattr(classifier, "score") or getattr(classifier.score, "bias", None) is not None:
        raise ModelError(f"{classifier_class.__name__}: its head is not one row of weights; use --format merged")
    setattr(classifier, classifier.base_model_prefix, body(model)[0])
    classifier.score.weight = torch.nn.Parameter((rows[1] - rows[0])[None], requires_grad=False)
    return classifier.eval()


def padding_token(encoder: PairPromptEncoder) -> str:
    """Return a padding token other than the last token of prompts, because classifiers read the last token that is not padding.

    Raises:
        ModelError: the tokenizer has no such token.
    """
    tokenizer = encoder.tokenizer
    last = encoder.encode("query", "document").ids[-1]
    for token in dict.fromkeys([tokenizer.pad_token, tokenizer.eos_token, *tokenizer.all_special_tokens]):
        if token and tokenizer.convert_tokens_to_ids(token) != last:
            return token
    raise ModelError("the tokenizer has no special token for padding except the one at the end of its prompts")


def probe_pairs(encoder: PairPromptEncoder, exported: str) -> list[tuple[str, str]]:
    """Return the (query, document) pairs of PROBES that allow a comparison of an export and the model.

    Pairs with a truncated query are left out, and for prompts that repeat the query also those with a truncated document.

    Args:
        encoder: encoder of the prompt.
        exported: what is compared, for the message.

    Raises:
        ConfigError: the prompt's maximum length is too small for any pair.
    """
    encoded = [(pair, encoder.encode(*pair)) for pair in PROBES]
    whole = [(pair, one) for pair, one in encoded if not one.query_cut]
    pairs = [pair for pair, one in whole if encoder.repeats == 1 or len(one.ids) <= max_pair_tokens(encoder)]
    if not pairs:
        raise ConfigError(f"{encoder.longest} tokens are too few to test the {exported}; raise --max-length")
    return pairs


def model_scores(model: PreTrainedModel, encoder: PairPromptEncoder, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Return the causal LM's scores [n] of pairs."""
    from ..reranker import Reranker

    return torch.from_numpy(
        Reranker.of(model, encoder.tokenizer, Prompt.of(encoder.prompt), long_documents="truncate").score(pairs)
    )


def probe_batch(folder: Path, encoder: PairPromptEncoder, pairs: list[tuple[str, str]], template: bool, side: str = "right") -> Any:
    """Return the ids and mask of pairs, by the tokenizer of an exported folder as any other library loads it.

    Args:
        folder: folder of the export.
        encoder: encoder of its prompt, used if the prompt is not part of the tokenizer.
        pairs: (query, document) texts.
        template: whether the prompt is part of the tokenizer.
        side: side of the padding, "right" or "left".
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side=side)
    if template:
        return tokenizer(*map(list, zip(*pairs)), padding=True, truncation="only_second", return_tensors="pt")
    return tokenizer.pad({"input_ids": [encoder.encode(*pair).ids for pair in pairs]}, return_tensors="pt")


@one_at_a_time
@torch.inference_mode()
def classifier_logits(folder: Path, encoder: PairPromptEncoder, pairs: list[tuple[str, str]], template: bool) -> torch.Tensor:
    """Return an exported classifier's logits [n] of pairs, loaded as by any other library.

    Args:
        folder: folder of the classifier.
        encoder: encoder of its prompt, used if the prompt is not part of the tokenizer.
        pairs: (query, document) texts.
        template: whether the prompt is part of the tokenizer.
    """
    from transformers import AutoModelForSequenceClassification

    with without_bars():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model(**probe_batch(folder, encoder, pairs, template)).logits[:, 0]
