"""Save a checkpoint as a plain Hugging Face folder that other libraries read too.

Hard fact: with `modules.json` and a `LogitScore` config, sentence-transformers' CrossEncoder scores the same pairs the same way,
because the chat template in the folder is the Prompt.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .checkpoint import weight_hash
from .files import atomic_folder
from .model import pad_token, without_bars
from .prompt import BoundListPrompt, BoundPrompt
from .template import CHAT_END, CHAT_MARK, own_chat

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
# Cutting the rendered text would take a query that stands after the document with it, so such prompts go uncut.
UNCUT = {"processing_kwargs": {"text": {"truncation": False}}}
ST_CONFIG = {
    "activation_fn": "torch.nn.modules.linear.Identity",
    "default_prompt_name": None,
    "model_type": "CrossEncoder",
    "prompts": {},
}

# The saved chat template: the Prompt for the roles query and document, the tokenizer's own chat otherwise.
CHAT_IF = "{%- if messages | selectattr('role', 'equalto', 'document') | list -%}"


def save_checkpoint(
    folder: str | Path, model: torch.nn.Module, bound: BoundPrompt | BoundListPrompt, base: tuple[str, Path] | None = None,
    card: str | None = None,
) -> Path:  # fmt: skip
    """Write model (or adapter), tokenizer, prompt, card and, for prompts of one document, what sentence-transformers reads; all or
    nothing.

    Args:
        folder: replaced if it exists.
        base: for an adapter, its base's name and folder, stored with a hash of the weights (`base.json`).
        card: text of README.md.
    """
    folder = Path(folder)
    with atomic_folder(folder) as beside:
        with without_bars():
            model.save_pretrained(beside)
        if base and (beside / "adapter_config.json").is_file():
            write_json(beside / "base.json", {"name": base[0], "sha256": weight_hash(base[1])})
        bound.prompt.save(beside)
        if isinstance(bound, BoundPrompt):
            _save_for_pairs(beside, bound)
        else:
            bound.tokenizer.save_pretrained(beside)
        name_as_before(beside)
        if card:
            (beside / "README.md").write_text(card, encoding="utf-8")
    return folder


def name_as_before(folder: Path) -> None:
    """Name settings as transformers 4 does, too, by which many servers read. Without `rope_theta` they would turn positions by
    another base, and score wrongly without a word."""
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


def _save_for_pairs(folder: Path, bound: BoundPrompt) -> None:
    """The tokenizer with the Prompt as chat template, and what sentence-transformers needs to score pairs."""
    _tokenizer_with(bound).save_pretrained(folder)
    no, yes = bound.answer_ids
    write_json(folder / "modules.json", ST_MODULES)
    write_json(folder / "sentence_bert_config.json", ST_TRANSFORMER | (UNCUT if bound.query_behind else {}))
    write_json(folder / "config_sentence_transformers.json", ST_CONFIG)
    (folder / "1_LogitScore").mkdir()
    write_json(
        folder / "1_LogitScore" / "config.json",
        {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"},
    )


def model_card(
    name: str, base: str, licence: str, stage: str, data: str, settings: dict, measures: dict, command: str, lists: bool = False
) -> str:
    """README.md of a checkpoint: what it is, on what it was trained, how, what it measured, how to use it; `lists`: it is shown
    several documents at once."""
    use = f'"{name}", method="listwise"' if lists else f'"{name}"'
    told = (
        "It is shown several documents at once and answers with the label of the best. The folder also loads in\n"
        "`transformers.AutoModelForCausalLM`."
        if lists
        else "Scores are raw log-odds of the answer tokens. The folder also loads in `transformers.AutoModelForCausalLM` and in\n"
        "`sentence_transformers.CrossEncoder`."
    )
    chosen = "\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items())
    return f"""{card_head(name, base, licence)}
A reranker trained with ProRank, stage `{stage}`, from `{base}` (licence: {licence}).

```python
from prorank import Reranker

hits = Reranker({use}).rank("a query", ["a document", "another document"])
```

{told}

## Training

Data: {data}

Command: `{command}`

```yaml
{chosen}
```

## Measures on the dev set

{card_table([{"measure": key, "value": value} for key, value in measures.items()] or [{"measure": "none", "value": ""}])}
"""


def card_head(name: str, base: str, licence: str) -> str:
    """Front matter, as hubs read it, and title of a model card."""
    return f"""---
library_name: prorank
base_model: {base}
license: {licence}
pipeline_tag: text-ranking
tags: [reranker, prorank]
---
# {name}
"""


def card_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of rows that all have the first one's keys."""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(row[key]) for key in rows[0]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tokenizer_with(bound: BoundPrompt) -> Any:
    """A copy of the tokenizer whose chat template renders the Prompt for query/document roles and chats as before otherwise."""
    tokenizer = copy.deepcopy(bound.tokenizer)
    chat, ours = own_chat(tokenizer).removesuffix("\n"), bound.direct().chat_template()  # Jinja too drops the last newline
    tokenizer.chat_template = CHAT_IF + ours + "{%- else -%}" + CHAT_MARK + chat + CHAT_END if chat else ours + CHAT_MARK
    tokenizer.model_max_length = bound.longest
    tokenizer.padding_side, tokenizer.truncation_side = "left", "right"
    if tokenizer.pad_token_id is None:  # CrossEncoder pads
        tokenizer.pad_token = pad_token(tokenizer)
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
