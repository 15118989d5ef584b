"""Save a checkpoint as a Hugging Face folder that other libraries can read.

`modules.json` and a `LogitScore` config let sentence-transformers' CrossEncoder load the folder; the chat template renders the
Prompt. The saved tokenizer is tested, and the card states where CrossEncoder's scores differ from ours.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts.prompt import ListPromptEncoder, PairPromptEncoder
from ..prompts.sentinels import drops_breaks, heed_marks, special_texts
from ..prompts.template import CHAT_END, CHAT_MARK, own_chat
from ..utils.files import atomic_folder
from .card import FILE as CARD
from .card import LIBRARIES, with_section, write_card
from .light_loading import with_transformers_class
from .loading import pad_token, without_bars
from .weight_hashes import weight_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ST_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {
        "idx": 1,
        "name": "1",
        "path": "1_LogitScore",
        "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
    },
]
ST_TRANSFORMER = {
    "transformer_task": "text-generation",
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "logits"},
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
    },
    "module_output_name": "causal_logits",
}
# Truncating the rendered text would remove a query that follows the document, so such prompts are not truncated.
UNCUT = {"processing_kwargs": {"text": {"truncation": False}}}
ST_CONFIG: dict[str, Any] = {
    "activation_fn": "torch.nn.modules.linear.Identity",
    "default_prompt_name": None,
    "model_type": "CrossEncoder",
    "prompts": {},
}

ELSEWHERE = """\
`sentence_transformers.CrossEncoder`, where scores differ: it tokenises the rendered prompt as one text, and tokens may span the
border between prompt and texts. `prorank.integrations.sentence_transformers.CrossEncoder` gives the same scores as `Reranker`."""
PLAIN = ("where is the garden 42?", "The garden is near the river.", "a")
HARD = (" ", "\n\t", "  a garden", "the river \n", "")
# The saved chat template renders the Prompt for the roles query and document, and the tokenizer's own chat for other roles.
CHAT_IF = "{%- if messages | selectattr('role', 'equalto', 'document') | list -%}"


def save_checkpoint(
    folder: str | Path, model: PreTrainedModel, encoder: PairPromptEncoder | ListPromptEncoder,
    base: tuple[str, Path] | None = None,    card: str | None = None,
) -> Path:  # fmt: skip
    """Save model (or adapter), tokenizer, prompt and card, and the files of sentence-transformers for prompts of one document.

    Args:
        folder: target, replaced atomically.
        model: the model, or peft's model with an adapter.
        encoder: the encoder of the checkpoint, with its prompt and tokenizer.
        base: for an adapter, name and folder of its base. They are stored in `base.json` with a hash of the weights.
        card: text of README.md.

    Returns:
        The folder.
    """
    folder = Path(folder)
    with atomic_folder(folder) as beside:
        with without_bars():
            with_transformers_class(model).save_pretrained(beside)
        (beside / CARD).unlink(missing_ok=True)  # peft writes an empty template
        if base and (beside / "adapter_config.json").is_file():
            write_json(beside / "base.json", {"name": base[0], "sha256": weight_hash(base[1])})
        encoder.prompt.save(beside)
        if isinstance(encoder, PairPromptEncoder):
            _save_for_pairs(beside, encoder)
        else:
            encoder.tokenizer.save_pretrained(beside)
        name_as_before(beside)
        if card:
            write_card(beside, with_section(card, LIBRARIES, about_libraries(beside, encoder)))
    return folder


def name_as_before(folder: Path) -> None:
    """Add the key names of transformers 4 to config.json, because many servers read them.

    Without `rope_theta` they would use another base for rotary positions and return wrong scores without an error.
    """
    config = folder / "config.json"
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        rope = values.get("rope_parameters") or {}
        if "rope_theta" in rope:
            bent = {key: value for key, value in rope.items() if key != "rope_theta"}
            scaled = {"rope_scaling": bent} if rope.get("rope_type", "default") != "default" else {}
            write_json(config, {"rope_theta": rope["rope_theta"], **scaled, **values})
    tokenizer = folder / "tokenizer_config.json"
    values = json.loads(tokenizer.read_text(encoding="utf-8"))
    if values.get("tokenizer_class") == "TokenizersBackend":
        write_json(tokenizer, values | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _save_for_pairs(folder: Path, encoder: PairPromptEncoder) -> None:
    """Save the tokenizer with the Prompt as chat template, and the configs of sentence-transformers."""
    _tokenizer_with(encoder).save_pretrained(folder)
    name_as_before(folder)
    if encoder.prompt.escape_special_tokens and not drops_breaks(_read_back(folder)):  # some classes replace the pre-tokenizer
        _tokenizer_with(encoder, breaks=False).save_pretrained(folder)
    no, yes = encoder.answer_ids
    write_json(folder / "modules.json", ST_MODULES)
    write_json(folder / "sentence_bert_config.json", ST_TRANSFORMER | (UNCUT if encoder.query_behind else {}))
    write_json(folder / "config_sentence_transformers.json", ST_CONFIG)
    (folder / "1_LogitScore").mkdir()
    write_json(
        folder / "1_LogitScore" / "config.json",
        {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"},
    )


def _tokenizer_with(encoder: PairPromptEncoder, breaks: bool = True) -> Any:
    """Return a copy of the tokenizer whose chat template renders the Prompt for the roles query and document.

    For other roles the template is unchanged. `breaks`: mark white space at the ends of texts, see `prorank.prompts.sentinels`.
    """
    tokenizer = copy.deepcopy(encoder.tokenizer)
    marks = encoder.prompt.escape_special_tokens and getattr(tokenizer, "is_fast", False)
    if marks:
        heed_marks(tokenizer)
    ours = encoder.direct().chat_template(marks, marks and breaks)
    chat = own_chat(tokenizer).removesuffix("\n")  # Jinja also drops the final newline
    tokenizer.chat_template = CHAT_IF + ours + "{%- else -%}" + CHAT_MARK + chat + CHAT_END if chat else ours + CHAT_MARK
    tokenizer.model_max_length = encoder.longest
    tokenizer.padding_side, tokenizer.truncation_side = "left", "right"
    if tokenizer.pad_token_id is None:  # CrossEncoder needs padding
        tokenizer.pad_token = pad_token(tokenizer)
    return tokenizer


def _read_back(folder: Path) -> Any:
    """Load the tokenizer of a folder as other libraries do."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def about_libraries(folder: Path, encoder: PairPromptEncoder | ListPromptEncoder) -> str:
    """Return the card's text on other libraries, after testing the saved tokenizer."""
    if (folder / "adapter_config.json").is_file():
        return "This is a LoRA adapter: run `prorank export --format merged` to make a plain model for other libraries."
    plain = "The folder loads in `transformers.AutoModelForCausalLM`"
    if not isinstance(encoder, PairPromptEncoder):
        return f"{plain}; its prompt shows several documents at once, so it cannot be a `CrossEncoder` of sentence-transformers."
    tokenizer, direct = _read_back(folder), encoder.direct()
    if not same_ids(tokenizer, direct, PLAIN):
        return f"{plain}, and in\n{ELSEWHERE}"
    exceptions = [f"queries above {direct.query_limit()} tokens, which are cut here and shorten the document there"]
    if direct.query_behind:
        exceptions = [f"prompts above {direct.longest} tokens, which are cut here and not there"]
    if encoder.prompt.kind == "thinking":
        exceptions.append("thoughts, which are not generated there (compare with `think=False` here)")
    if not same_ids(tokenizer, direct, HARD):
        exceptions.append("texts that contain a special token, or begin or end with white space")
    return f"{plain} and in\n`sentence_transformers.CrossEncoder`, with the same scores except for {'; '.join(exceptions)}."


def same_ids(tokenizer: Any, encoder: PairPromptEncoder, texts: Sequence[str]) -> bool:
    """Whether the tokenizer's chat template gives the same ids as the encoder for pairs with these texts."""
    spelled = [special for special in special_texts(encoder.tokenizer)[:4]] if texts is HARD else []
    pairs = [pair for text in [*texts, *spelled] for pair in ((PLAIN[0], text), (text, PLAIN[0])) if pair[0].strip()]
    for query, document in pairs:
        turns = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        got = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
        want = encoder.encode(query, document)
        if not (want.query_cut or want.document_cut) and list(got) != want.ids:
            return False
    return True


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON. Raises ValueError if a number is not finite."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
