"""What an exported folder says of itself: how to load it, and settings for servers that read such models.

No server was run for these notes; they come from the servers' own sources and documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

from ..checkpoints.card import card_head
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.prompt import AnyPromptEncoder

BAKED = """\
The prompt `{name}` is part of `tokenizer.json`: plain `tokenizer(query, document, truncation="only_second")` gives its ids, and the
document alone is cut, at {room} tokens in all{repeat}.
"""
RENDERED = """\
The prompt `{name}` is not part of the tokenizer: texts have to be rendered first. `chat_template.jinja` does that for messages of
the roles `query` and `document`; `tokenizer(text)` then gives its ids, and cuts nothing in its middle.
"""
SPECIAL = """\
- transformers takes special tokens in texts as text here; servers that read `tokenizer.json` by themselves take them as such.
"""
NOTES = """\
{head}
A reranker as a classifier of one logit: the score, raw log-odds (logit of "{yes}" less logit of "{no}"). Made by `prorank export`
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
- text-embeddings-inference: `text-embeddings-router --model-id {folder}`, where it knows `{kind}`. It applies a sigmoid unless
  `raw_scores` is set{cut}.
- infinity: `infinity_emb v2 --model-id {folder}`. It strips blanks around texts.
{special}"""


def classifier_notes(
    folder: Path, bound: PairPromptEncoder, kind: str, room: int, template: bool, source: str, hub: str | None, licence: str
) -> str:  # fmt: skip
    """README.md of a classifier of this class, whose pairs take `room` tokens at most.

    `source` is what it was made from, `hub` the hub id that this goes back to.
    """
    no, yes = bound.prompt.answers
    cut = ", and cuts pairs at `max_seq_length` of `sentence_bert_config.json`" if template and bound.repeats == 1 else ""
    prompt = (BAKED if template else RENDERED).format(
        name=bound.prompt.name, room=room, repeat=", the query's second place not counted" if bound.repeats > 1 else ""
    )
    special = SPECIAL if template and bound.prompt.escape_special_tokens else ""
    command = serve_command(folder, template)
    return NOTES.format(
        head=card_head(str(folder), hub, licence, "transformers"), source=source, folder=folder,
        licence=licence, yes=yes, no=no, kind=kind, prompt=prompt, vllm=command, cut=cut,
        special=special,
    )  # fmt: skip


def serve_command(folder: Path, template: bool) -> str:
    """vLLM's command line for a classifier."""
    chat = "" if template else f" --chat-template {quote(f'{folder}/chat_template.jinja')}"
    return f"vllm serve {quote(str(folder))}{chat}"


def causal_command(folder: Path, config: Any, bound: AnyPromptEncoder) -> str:
    """vLLM's command line for a causal model whose two answers it shall score; "" for prompts of several documents."""
    if not isinstance(bound, PairPromptEncoder):
        return ""
    kind = (config.architectures or [type(config).__name__.replace("Config", "ForCausalLM")])[0]
    overrides = {
        "architectures": [kind.replace("ForCausalLM", "ForSequenceClassification")],
        "classifier_from_token": bound.tokenizer.convert_ids_to_tokens(list(bound.answer_ids)),
        "method": "from_2_way_softmax",
    }
    chat = quote(f"{folder}/chat_template.jinja")
    return f"vllm serve {quote(str(folder))} --hf_overrides {quote(json.dumps(overrides))} --chat-template {chat}"
