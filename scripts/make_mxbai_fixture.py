"""Make tests/fixtures/mxbai_ids.json.gz: the ids which the package mxbai-rerank 0.1.6 builds for 500 random triples.

0.1.6 does not run on transformers 5 (`prepare_for_model` is gone), so this needs a separate environment:

    python3 -m venv ref
    ref/bin/pip install torch "transformers==4.57.*" mxbai-rerank==0.1.6
    ref/bin/python scripts/make_mxbai_fixture.py tests/fixtures

It also writes the tokenizer folder `mxbai_tokenizer` (trained on Python's own documentation). Its class is
`PreTrainedTokenizerFast`, which transformers 4 and 5 load in the same way.
"""

import argparse
import gzip
import json
import random
import tempfile
import textwrap
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLIT_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MODEL_MAX_LENGTH = 32768  # max_position_embeddings of Qwen2.5
# Number of triples by max_length, and maximum number of words of their queries and documents.
PLAN = [(64, 200, 40, 60), (256, 190, 120, 160), (1024, 70, 250, 450), (8192, 40, 40, 300)]
LONG_EVERY = 5  # every 5th triple of the last row has a document, every 10th also a query, that exceeds max_length
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo yu za tion ing er est".split()
RARE = [
    "café", "cafe\u0301", "naïve", "ﬁne", "日本語", "検索", "Straße", "ЁЖИК", "مرحبا", "हिन्दी", "😀",
    "\U0001f469\u200d\U0001f467", "x²", "½", "\u00a0", "\u200b", "don't", "I'LL", "3.14159", "1,000,000", "2024-01-31",
    "C++", "--", "…", "{query}", "{document}", "query:", "document:", "instruction:", "Relevance:", "0", "1", "\\n",
    "\t", "a" * 40, "==" * 9, *SPECIAL, "<think>",
]  # fmt: skip
JOINTS = [" "] * 16 + ["  ", "\n", "\n\n", ", ", ". ", "\r\n", "\t", "   \n "]
EDGES = [""] * 6 + ["\n", " ", "\n\n", " \n", "\r\n"]


def train_tokenizer(folder: Path, vocab_size: int = 1600) -> None:
    """Write tokenizer.json and tokenizer_config.json of a Qwen2-like byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_QWEN2), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator((topics[name] for name in sorted(topics)), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_MAX_LENGTH,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def random_text(rng: random.Random, max_words: int) -> str:
    """Return a text of 0 to `max_words` words: synthetic words with rare characters, special tokens and unusual white space."""
    if rng.random() < 0.04:
        return rng.choice(["", "", "", " ", "\n", "?", "<|im_end|>"])
    parts = [rng.choice(EDGES)]
    for _ in range(rng.randint(1, max_words) if rng.random() < 0.6 else rng.randint(1, min(12, max_words))):
        word = rng.choice(RARE) if rng.random() < 0.08 else "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))
        parts += [word, rng.choice(JOINTS)]
    return "".join(parts[:-1]) + rng.choice(EDGES)


def triples(seed: int) -> list[dict]:
    """Return 500 triples: [{"max_length", "instruction" (None, "" or text), "query", "document"}]."""
    rng = random.Random(seed)
    rows = []
    for max_length, count, query_words, document_words in PLAN:
        for i in range(count):
            query, document = random_text(rng, query_words), random_text(rng, document_words)
            if max_length == 8192 and i % LONG_EVERY == 0:  # a repeated passage is long, but small when compressed
                document = (random_text(rng, 120) + " end. ") * rng.randint(300, 400) * 2
                query = (query + " and ") * 2000 if i % (2 * LONG_EVERY) == 0 else query
            instruction = rng.choice([None, None, "", random_text(rng, 12), random_text(rng, query_words)])
            rows.append({"max_length": max_length, "instruction": instruction, "query": query, "document": document[:200_000]})
    return rows


def reference_ids(tokenizer_folder: Path, rows: list[dict]) -> list[list[int]]:
    """Return ids without padding from the package's MxbaiRerankV2.prepare_inputs, with a tiny random Qwen2."""
    from mxbai_rerank import MxbaiRerankV2
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        tokenizer.save_pretrained(folder)
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=MODEL_MAX_LENGTH,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder)
        lengths = sorted({row["max_length"] for row in rows})
        rerankers = {length: MxbaiRerankV2(folder, device="cpu", max_length=length) for length in lengths}
        return [_unpadded(rerankers[row["max_length"]], row) for row in rows]


def _unpadded(reranker, row: dict) -> list[int]:
    batch = reranker.prepare_inputs([row["query"]], [row["document"]], instruction=row["instruction"])
    return batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=textwrap.shorten(__doc__, 100))
    parser.add_argument("folder", type=Path, help="where mxbai_tokenizer/ and mxbai_ids.json.gz go")
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    from importlib.metadata import version

    tokenizer_folder = options.folder / "mxbai_tokenizer"
    train_tokenizer(tokenizer_folder)
    rows = triples(options.seed)
    for row, ids in zip(rows, reference_ids(tokenizer_folder, rows)):
        row["ids"] = ids
    made_with = {name: version(name) for name in ("mxbai-rerank", "transformers", "tokenizers")}
    fixture = {"made_with": made_with, "seed": options.seed, "model_max_length": MODEL_MAX_LENGTH, "rows": rows}
    text = json.dumps(fixture, ensure_ascii=False, separators=(",", ":"))
    packed = gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)  # no time stamp, for reproducible bytes
    (options.folder / "mxbai_ids.json.gz").write_bytes(packed)
    print(f"{len(rows)} triples, {len(packed)} bytes, made with {made_with}")


if __name__ == "__main__":
    main()
