"""Write a GGUF file that llama.cpp ranks with, and read its scores back with transformers."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, PoolingType
from gguf.quants import quant_shape_to_byte_shape, quantize

from ..checkpoints.loading import without_bars
from ..checkpoints.sources import PROMPT_KEY
from ..checkpoints.weights import check_report, readable
from ..engine.modules import body, head_dim_of
from ..errors import ModelError
from ..prompts.pair_encoder import PairPromptEncoder
from ..utils.loading_lock import one_at_a_time
from .gguf_vocabulary import GgufVocabulary
from .gguf_weights import CLASS_OUTPUTS, CLASSES, GgufTensor, check_architecture, gguf_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "model.gguf"
Q = GGMLQuantizationType
TYPES = {"fp16": Q.F16, "fp32": Q.F32, "bf16": Q.BF16, "q8_0": Q.Q8_0, "q4_0": Q.Q4_0}
FILE_TYPES = {
    "fp32": LlamaFileType.ALL_F32, "fp16": LlamaFileType.MOSTLY_F16, "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0, "q4_0": LlamaFileType.MOSTLY_Q4_0,
}  # fmt: skip
BLOCKED = (Q.Q8_0, Q.Q4_0)  # types that store blocks of 32 weights
BLOCK = 32


def write_gguf(
    path: Path, model: PreTrainedModel, encoder: PairPromptEncoder, vocabulary: GgufVocabulary, dtype: str, name: str,
    licence: str,
) -> None:  # fmt: skip
    """Write the file.

    Args:
        path: file to write.
        model: the causal LM, in fp32.
        encoder: encoder of its prompt.
        vocabulary: vocabulary of the file.
        dtype: type of the matrices, a key of TYPES. Norms, biases and class outputs stay fp32.
        name, licence: the model's, for the metadata.

    Raises:
        ModelError: see `gguf_tensors`; or a weight is too large for fp16.
    """
    target = GGUFWriter(path, check_architecture(model.config))
    target.add_name(name)
    target.add_license(licence)
    target.add_file_type(FILE_TYPES[dtype])
    target.add_quantization_version(2)
    _add_sizes(target, model.config, len(vocabulary.tokens))
    _add_vocabulary(target, encoder.tokenizer, vocabulary)
    target.add_pooling_type(PoolingType.RANK)
    target.add_classifier_output_labels(_labels(model.config, encoder))
    target.add_string(PROMPT_KEY, json.dumps(asdict(encoder.prompt), ensure_ascii=False))
    tensors = [(one, _type_of(one, TYPES[dtype])) for one in gguf_tensors(model, encoder.answer_ids, vocabulary.rows)]
    for tensor, kind in tensors:
        stored = np.dtype(np.float32 if kind == Q.F32 else np.float16 if kind == Q.F16 else np.uint8)
        shape = quant_shape_to_byte_shape(tensor.shape, kind) if stored == np.uint8 else tensor.shape
        target.add_tensor_info(tensor.name, shape, stored, int(np.prod(shape)) * stored.itemsize, raw_dtype=kind)
    try:
        target.write_header_to_file()
        target.write_kv_data_to_file()
        target.write_ti_data_to_file()
        for tensor, kind in tensors:
            target.write_tensor_data(_stored(tensor, kind))
    finally:
        target.close()


def _labels(config: Any, encoder: PairPromptEncoder) -> list[str]:
    """Return names of the outputs of rank pooling: the score first.

    Without class outputs the whole hidden state is returned. llama.cpp reads as many numbers of each sequence of a batch as there
    are labels, so there must be one for each component.
    """
    if config.model_type in CLASS_OUTPUTS:
        return list(reversed(encoder.prompt.answers))
    return ["relevance", *(f"unused {index}" for index in range(1, config.hidden_size))]


def _type_of(tensor: GgufTensor, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    """Return the type that a tensor is stored in."""
    if len(tensor.shape) == 1 or tensor.name == CLASSES:
        return Q.F32
    return Q.F16 if kind in BLOCKED and tensor.shape[-1] % BLOCK else kind  # as llama.cpp does for widths without whole blocks


def _stored(tensor: GgufTensor, kind: GGMLQuantizationType) -> np.ndarray:
    with np.errstate(over="ignore"):
        data = quantize(tensor.make().numpy(), kind)
    if kind == Q.F16 and not np.isfinite(data).all():
        raise ModelError(f"'{tensor.name}' has weights that are too large for fp16; use --dtype bf16")
    return data


def _add_sizes(target: GGUFWriter, config: Any, tokens: int) -> None:
    head_dim = head_dim_of(config)
    target.add_context_length(config.max_position_embeddings)
    target.add_embedding_length(config.hidden_size)
    target.add_block_count(config.num_hidden_layers)
    target.add_feed_forward_length(config.intermediate_size)
    target.add_head_count(config.num_attention_heads)
    target.add_head_count_kv(config.num_key_value_heads)
    target.add_key_length(head_dim)
    target.add_value_length(head_dim)
    target.add_rope_dimension_count(head_dim)
    target.add_rope_freq_base(config.rope_parameters["rope_theta"])
    target.add_layer_norm_rms_eps(config.rms_norm_eps)
    target.add_vocab_size(tokens)


def _add_vocabulary(target: GGUFWriter, tokenizer: Any, vocabulary: GgufVocabulary) -> None:
    target.add_tokenizer_model("gpt2")
    target.add_tokenizer_pre(vocabulary.pre)
    target.add_token_list(vocabulary.tokens)
    target.add_token_types(vocabulary.types)
    target.add_token_merges(vocabulary.merges)
    ids = {key: getattr(tokenizer, f"{key}_token_id", None) for key in ("bos", "eos", "pad")}
    end = next((index for index in (ids["eos"], ids["pad"], ids["bos"]) if index is not None), 0)
    target.add_bos_token_id(end if ids["bos"] is None else ids["bos"])  # llama.cpp does not rank without one; it is not used
    target.add_eos_token_id(end)
    target.add_pad_token_id(end if ids["pad"] is None else ids["pad"])
    target.add_add_bos_token(False)
    target.add_add_eos_token(False)
    target.add_chat_template([{"name": "rerank", "template": vocabulary.template}])


@one_at_a_time
@torch.inference_mode()
def file_scores(path: Path, model: PreTrainedModel, encoder: PairPromptEncoder, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Return the scores [n] of pairs by the file's weights, read by transformers and computed as by llama.cpp's rank pooling.

    Args:
        path: the GGUF file.
        model: the model that it was written from, for its configuration.
        encoder: encoder of its prompt.
        pairs: (query, document) texts.

    Raises:
        ModelError: transformers cannot read the file.
    """
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    with readable(path):
        tensors = {one.name: one for one in GGUFReader(path).tensors}
        config = copy.deepcopy(model.config)
        config.vocab_size, config.tie_word_embeddings = int(tensors["token_embd.weight"].shape[1]), True
        with without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, config=config, dtype=torch.float32, output_loading_info=True
            )
        classes = torch.from_numpy(np.array(tensors[CLASSES].data)) if CLASSES in tensors else None
    inner, report = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    check_report(path, report)
    scores = []
    for pair in pairs:
        state = body(inner)[0](torch.tensor([encoder.encode(*pair).ids]), use_cache=False).last_hidden_state[0, -1]
        scores.append(state[0] if classes is None else state @ (classes[0] - classes[1]))
    return torch.stack(scores)
