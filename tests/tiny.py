"""Tiny random models and tokenizers with the shapes of the real ones, made in memory: tests run offline in seconds.

The vocabulary is the 256 bytes, the special tokens and a few hundred merges trained on the sentences below,
always the same, so a token id written down in one test holds in all of them.
"""

import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = tuple("garden engine river violin bread castle planet doctor market winter horse coffee".split())
SENTENCES = [
    "Given a query and a document, judge whether the document is relevant to the query.",
    "Answer with 1 if the document is relevant and with 0 if it is not relevant.",
    "You are a helpful assistant. The user asks a question and the assistant answers yes or no.",
    "Relevance: the passage answers the query. The document talks about something else.",
    "A search engine finds many passages; a reranker reads them and puts the best one first.",
    *[f"{word} the old {word} is near the {word}, we saw a {word} there, then another {word} today." for word in WORDS],
]
SPLIT_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANSWER_MERGES = [("y", "e"), ("ye", "s"), ("n", "o")]  # first of all merges, so "yes" and "no" are one token each
BREAK_MERGES = [("?", "Ċ"), (".", "Ċ")]  # "?\n" is one token in Qwen's vocabulary, which ids joined at a line break must heed
CHATML_END = (
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _chatml(system: str) -> str:
    """Jinja chat template that puts `system` before a conversation which has no system message of its own."""
    return (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\n" + system + "<|im_end|>\n' }}{% endif %}" + CHATML_END
    )


TEMPLATE_R1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
NO_THOUGHT = "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"  # Qwen3's, when asked not to think
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STYLES = {
    "smollm": {
        "special": CHAT_TOKENS,
        "roles": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        "template": _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    },
    "qwen2": {
        "special": CHAT_TOKENS,
        "roles": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "template": _chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    },
    "qwen3": {  # "<think>" is a token, but no special one, as in "r1"
        "special": CHAT_TOKENS,
        "roles": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "template": "{% for message in messages %}" + CHATML_END.replace("{% endif %}", NO_THOUGHT + "{% endif %}"),
    },
    "plain": {"special": ["<s>", "</s>"], "roles": {"bos_token": "<s>", "eos_token": "</s>"}, "template": None},
    "r1": {
        # Here, as in DeepSeek-R1-Distill, "<think>" is a token of its own but not a special one; see _assemble.
        "special": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
        "roles": {
            "bos_token": "<｜begin▁of▁sentence｜>",
            "eos_token": "<｜end▁of▁sentence｜>",
            "pad_token": "<｜end▁of▁sentence｜>",
        },
        "template": TEMPLATE_R1,
    },
}


def _pre_tokenizer(style: str) -> pre_tokenizers.PreTokenizer:
    if style == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if style == "plain":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(SPLIT_QWEN2), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _merges(style: str, count: int) -> list[tuple[str, str]]:
    """`count` merges trained on SENTENCES: [(left, right)] in order of rank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(style)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + count, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def _assemble(style: str, merges: list[tuple[str, str]]) -> Tokenizer:
    """Tokenizer with ids: bytes, merges, special tokens last (as in Qwen2)."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(merge) for merge in merges]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(style)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(STYLES[style]["special"])
    if style in ("r1", "qwen3"):
        tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def byte_tokenizer(style: str = "smollm", merges: int = 300, split_answers: bool = False) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer.

    Args:
        style: "smollm" (digits apart, ChatML, pad), "qwen2" (Qwen2's own split, NFC, ChatML with Qwen's system text,
            pad), "qwen3" (as "qwen2", with tokens for thoughts and for "?\\n"), "plain" (no chat template, no pad, a BOS
            added by the post-processor), "r1" (BOS added, and a chat template whose generation prompt opens a thought:
            "<think>\\n").
        merges: how many merges to train.
        split_answers: make "0", "1", "yes" and "no" two tokens or more each, as some vocabularies do.
    """
    spec = STYLES[style]
    answers = {"ye", "yes", "no"}
    trained = [merge for merge in _merges(style, merges) if "".join(merge) not in answers]
    if split_answers:  # nor may a longer word be built from them
        trained = [merge for merge in trained if not answers & set(merge)]
    first = ANSWER_MERGES + (BREAK_MERGES if style == "qwen3" else [])
    tokenizer = _assemble(style, trained if split_answers else first + trained)
    steps = [normalizers.NFC()] if style in ("qwen2", "qwen3", "r1") else []
    if split_answers:
        steps.append(normalizers.Replace(Regex("[01]"), "▁0"))
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    bos = spec["roles"].get("bos_token")
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if style in ("plain", "r1"):  # SmolLM2 and Qwen2 add nothing
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **spec["roles"])
    fast.chat_template = spec["template"]
    fast.model_max_length = 8192
    return fast


def _sizes(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "initializer_range": 0.1,  # at the usual 0.02 so small a model gives nearly equal logits everywhere
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _build(kind: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).float().eval()


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, hidden: int = 64, layers: int = 2, tie: bool = True
) -> LlamaForCausalLM:
    """A random Llama of SmolLM2's form (input and output embeddings tied), fp32, in eval mode."""
    config = LlamaConfig(**_sizes(tokenizer, hidden, layers), tie_word_embeddings=tie)
    return _build(LlamaForCausalLM, config, seed)


def tiny_qwen2(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, hidden: int = 64, layers: int = 2, tie: bool = False
) -> Qwen2ForCausalLM:
    """A random Qwen2 (output matrix of its own unless `tie`), fp32, in eval mode."""
    config = Qwen2Config(**_sizes(tokenizer, hidden, layers), tie_word_embeddings=tie)
    return _build(Qwen2ForCausalLM, config, seed)


def tiny_qwen3(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, hidden: int = 64, layers: int = 2, tie: bool = True
) -> Qwen3ForCausalLM:
    """A random Qwen3 (queries and keys normalised, heads of a width of their own), fp32, in eval mode."""
    config = Qwen3Config(**_sizes(tokenizer, hidden, layers), head_dim=32, tie_word_embeddings=tie)
    return _build(Qwen3ForCausalLM, config, seed)


def tiny_llama4(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, hidden: int = 64, layers: int = 2, tie: bool = True
) -> Llama4ForCausalLM:
    """A random dense Llama 4 of MobileLLM-R1's form, fp32, in eval mode."""
    sizes = _sizes(tokenizer, hidden, layers) | {"intermediate_size_mlp": 2 * hidden, "moe_layers": [], "head_dim": 16}
    return _build(Llama4ForCausalLM, Llama4TextConfig(**sizes, tie_word_embeddings=tie), seed)


def save_tiny(folder: str | Path, kind: str = "llama", style: str | None = None, seed: int = 0, **sizes) -> Path:
    """Save a tiny model and its tokenizer as a plain Hugging Face folder.

    Args:
        folder: created where missing.
        kind: "llama", "qwen2", "qwen3" or "llama4".
        style: the tokenizer's; by default the one that belongs to the kind ("smollm", "qwen2", "qwen3", "smollm").
        sizes: `hidden`, `layers`, `tie` of the model.

    Returns:
        The folder.
    """
    tokenizer = byte_tokenizer(style or {"llama": "smollm", "llama4": "smollm"}.get(kind, kind))
    build = {"llama": tiny_llama, "qwen2": tiny_qwen2, "qwen3": tiny_qwen3, "llama4": tiny_llama4}[kind]
    model = build(tokenizer, seed=seed, **sizes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save_adapter(folder: str | Path, base: str | Path, name: str | None = None, seed: int = 0, prompt: str = "prorank") -> Path:
    """Save a LoRA adapter with weights that are not zero over the checkpoint in `base`, which it calls `name`, as training does."""
    from peft import LoraConfig, get_peft_model

    from prorank.checkpoints.loading import load_model, load_tokenizer
    from prorank.checkpoints.resolve import resolve
    from prorank.checkpoints.saving import save_checkpoint
    from prorank.prompts.prompt import Prompt

    found = resolve(base)
    model = load_model(found, torch.float32, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, shape)
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.3)
    bound = Prompt.preset(prompt, max_length=192).bind(load_tokenizer(found))
    return save_checkpoint(folder, model, bound, (name or str(base), found.path))


def toy_lists(count: int = 60, negatives: int = 3, seed: int = 0) -> list[dict]:
    """`count` lists {"query", "pos", "neg"}: a document is relevant where it contains the query's word."""
    rng = random.Random(seed)
    forms = ("we saw the {0} today", "there is a {0}", "the old {0} is near", "another {0} and then")

    def document(word: str) -> str:
        return rng.choice(forms).format(word)

    lists = []
    for i in range(count):
        word = WORDS[i % len(WORDS)]
        others = rng.sample([other for other in WORDS if other != word], negatives)
        lists.append({"query": word, "pos": [document(word)], "neg": [document(other) for other in others]})
    return lists


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
