"""README.md of an exported classifier: how to load it, and command lines of servers for it.

No server was run for these notes; they follow the servers' own sources and documentation.
"""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from ..checkpoints.card import card_head
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.prompt import AnyPromptEncoder

BAKED = """\
The prompt `{name}` is part of `tokenizer.json`: plain `tokenizer(query, document, truncation="only_second")` gives its ids, and
truncates the document alone, at {max_tokens} tokens in all{repeat}.
"""
RENDERED = """\
The prompt `{name}` is not part of the tokenizer: texts have to be rendered first. `chat_template.jinja` does that for messages of
the roles `query` and `document`; `tokenizer(text)` then gives its ids and truncates nothing in its middle.
"""
SPECIAL = """\
- transformers treats special tokens in texts as plain text here; servers that read `tokenizer.json` themselves do not.
"""
NOTES = """\
{head}
A reranker as a classifier with one logit: the score, raw log-odds (logit of "{yes}" less logit of "{no}"). Made by `prorank export`
from `{source}` (licence: {licence}).

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSequenceClassification.from_pretrained("{folder}")
```

{prompt}
## Servers

None of them was run with this folder.

- vLLM: `{vllm}`. `config.json` names the identity as activation, so scores are log-odds.
- text-embeddings-inference: `text-embeddings-router --model-id {folder}`, if it supports `{classifier}`. It applies a sigmoid
  unless `raw_scores` is set{cut}.
- infinity: `infinity_emb v2 --model-id {folder}`. It strips whitespace around texts.
{special}"""


class Source(NamedTuple):
    """The checkpoint an export is made from: its name, the hub id it goes back to, and its licence."""

    name: str
    hub_id: str | None
    licence: str


def classifier_notes(
    folder: Path, encoder: PairPromptEncoder, classifier: str, max_tokens: int, template: bool, source: Source
) -> str:
    """The text of README.md.

    Args:
        folder: of the export.
        encoder: of the prompt.
        classifier: name of the classifier's class.
        max_tokens: of a pair.
        template: whether the prompt is baked into the tokenizer.
        source: the checkpoint the classifier was made from.
    """
    no, yes = encoder.prompt.answers
    cut = ", and truncates pairs at `max_seq_length` of `sentence_bert_config.json`" if template and encoder.repeats == 1 else ""
    prompt = (BAKED if template else RENDERED).format(
        name=encoder.prompt.name,
        max_tokens=max_tokens,
        repeat=", the query's second place not counted" if encoder.repeats > 1 else "",
    )
    special = SPECIAL if template and encoder.prompt.escape_special_tokens else ""
    return NOTES.format(
        head=card_head(str(folder), source.hub_id, source.licence, "transformers"), source=source.name, folder=folder,
        licence=source.licence, yes=yes, no=no, classifier=classifier, prompt=prompt, vllm=serve_command(folder, template), cut=cut,
        special=special,
    )  # fmt: skip


def serve_command(folder: Path, template: bool) -> str:
    """vLLM's command line for a classifier; `template` says whether the prompt is baked into its tokenizer."""
    chat = "" if template else f" --chat-template {quote(f'{folder}/chat_template.jinja')}"
    return f"vllm serve {quote(str(folder))}{chat}"


def causal_command(folder: Path, config: Any, encoder: AnyPromptEncoder) -> str:
    """vLLM's command line for a causal model that is to score by its two answers; "" for prompts of several documents."""
    if not isinstance(encoder, PairPromptEncoder):
        return ""
    architecture = (config.architectures or [type(config).__name__.replace("Config", "ForCausalLM")])[0]
    overrides = {
        "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "classifier_from_token": encoder.tokenizer.convert_ids_to_tokens(list(encoder.answer_ids)),
        "method": "from_2_way_softmax",
    }
    chat = quote(f"{folder}/chat_template.jinja")
    return f"vllm serve {quote(str(folder))} --hf_overrides {quote(json.dumps(overrides))} --chat-template {chat}"
