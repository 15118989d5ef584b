"""README.md of an exported classifier: how to load it, and command lines of servers.

The command lines follow the servers' source code and documentation. `make test-infinity` runs infinity; the others were not run.
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
The prompt `{name}` is part of `tokenizer.json`: `tokenizer(query, document, truncation="only_second")` returns its ids and
truncates the document only, to {max_tokens} tokens in total{repeat}.
"""
RENDERED = """\
The prompt `{name}` is not part of the tokenizer: render the texts first. `chat_template.jinja` renders messages of the roles
`query` and `document`; `tokenizer(text)` then returns the prompt's ids without truncating the texts in it.
"""
SPECIAL = """\
- transformers treats special tokens in texts as plain text here; servers that read `tokenizer.json` themselves do not.
"""
NOTES = """\
{head}
A reranker as a classifier with one logit: the score, raw log-odds (logit of "{yes}" minus logit of "{no}"). Made by `prorank
export` from `{source}` (licence: {licence}).

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSequenceClassification.from_pretrained("{folder}")
```

{prompt}
## Servers

None of them was run with this folder; ProRank's own tests run infinity with others.

- vLLM: `{vllm}`. `config.json` sets the identity as activation, so scores are log-odds.
- text-embeddings-inference: `text-embeddings-router --model-id {folder}`, if it supports `{classifier}`. It applies a sigmoid
  unless `raw_scores` is set{cut}.
- infinity: `infinity_emb v2 --model-id {folder}`. It applies a sigmoid unless `raw_scores` is set, and strips whitespace around
  texts.
{special}"""


class Source(NamedTuple):
    """The exported checkpoint.

    Attributes:
        name: its name.
        hub_id: hub id of its base, or None.
        licence: its licence.
    """

    name: str
    hub_id: str | None
    licence: str


def classifier_notes(
    folder: Path, encoder: PairPromptEncoder, classifier: str, max_tokens: int, template: bool, source: Source
) -> str:
    """Return the text of README.md.

    Args:
        folder: folder of the export.
        encoder: encoder of the prompt.
        classifier: name of the classifier's class.
        max_tokens: maximum number of tokens of a pair.
        template: whether the prompt is part of the tokenizer.
        source: the exported checkpoint.
    """
    no, yes = encoder.prompt.answers
    cut = ", and truncates pairs at `max_seq_length` of `sentence_bert_config.json`" if template and encoder.repeats == 1 else ""
    prompt = (BAKED if template else RENDERED).format(
        name=encoder.prompt.name,
        max_tokens=max_tokens,
        repeat=", without the repeated query" if encoder.repeats > 1 else "",
    )
    special = SPECIAL if template and encoder.prompt.escape_special_tokens else ""
    return NOTES.format(
        head=card_head(str(folder), source.hub_id, source.licence, "transformers"), source=source.name, folder=folder,
        licence=source.licence, yes=yes, no=no, classifier=classifier, prompt=prompt, vllm=serve_command(folder, template), cut=cut,
        special=special,
    )  # fmt: skip


def serve_command(folder: Path, template: bool) -> str:
    """Return vLLM's command line for a classifier. `template`: whether the prompt is part of its tokenizer."""
    chat = "" if template else f" --chat-template {quote(f'{folder}/chat_template.jinja')}"
    return f"vllm serve {quote(str(folder))}{chat}"


def causal_command(folder: Path, config: Any, encoder: AnyPromptEncoder) -> str:
    """Return vLLM's command line for scoring with a causal model's two answers; "" for prompts of several documents."""
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
