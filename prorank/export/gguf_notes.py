"""README.md of an exported GGUF file: how llama.cpp ranks with it, and what it does otherwise than `Reranker`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from ..checkpoints.card import card_head
from ..prompts.pair_encoder import PairPromptEncoder
from .gguf_vocabulary import GgufVocabulary
from .gguf_weights import CLASS_OUTPUTS
from .notes import Source

LOG_ODDS = """\
`relevance_score` is the score of `Reranker`: raw log-odds (logit of "{yes}" minus logit of "{no}"). llama.cpp reads the last
token's state of {kind} models since build 11243 (October 2026). Older builds read the first token's: all documents get one score.
"""
PROBABILITY = """\
`relevance_score` is the probability of "{yes}" against "{no}": the sigmoid of `Reranker`'s score, because llama.cpp applies a
softmax to the two class outputs of {kind} models. The order is the same, except that scores above 17 become ties at 1.
"""
NOTES = """\
{head}
`{file}` is a reranker for llama.cpp: `{name}` (licence: {licence}), written by `prorank export --format gguf`, with its
matrices in {dtype}. Read back, its scores differ from the model's by at most {difference:.1e} on {pairs} pairs.

```bash
{command}
curl http://127.0.0.1:8080/v1/rerank -d '{{"query": "a query", "documents": ["a document", "another document"]}}'
```

{score}
The prompt `{prompt}` is the file's template `tokenizer.chat_template.rerank`. Each token of its own text has a name of its own
there (U+FDD0, the token, U+FDD1), so texts never share tokens with the prompt{special}.

## What llama.cpp does otherwise

- It truncates nothing. `Reranker` cuts prompts to {longest} tokens and queries to {query} of them; the server refuses requests
  with a prompt above `-c` (older builds also above `-ub`).
{chunks}- A query that contains the text `{{document}}` gets the document inserted there.
{normalizes}- The instruction is that of the prompt; it cannot vary by query. A calibration is not part of the file.
- Keys and values are stored in 16 bits, unless `-ctk f32 -ctv f32 -fa off` is given.
"""
CHUNKS = """\
- Documents are read whole. `Reranker` reads those above {chunk} tokens in overlapping parts and takes the best
  (`long_documents="auto"`).
"""
NORMALIZES = """\
- Texts are not normalised to NFC, as the model's tokenizer does: composed and decomposed letters have different tokens.
"""


def server_command(path: Path, encoder: PairPromptEncoder) -> str:
    """Return llama-server's command line for a file, with room for the longest prompt."""
    longest = encoder.longest
    return f"llama-server -m {quote(str(path))} --reranking -np 1 -c {longest} -b {longest} -ub {longest}"


def gguf_notes(
    path: Path, encoder: PairPromptEncoder, vocabulary: GgufVocabulary, kind: str, dtype: str, source: Source,
    difference: float, pairs: int,
) -> str:  # fmt: skip
    """Return the text of README.md.

    Args:
        path: the GGUF file.
        encoder: encoder of the prompt.
        vocabulary: vocabulary of the file.
        kind: the model's architecture.
        dtype: type of the matrices.
        source: the exported checkpoint.
        difference, pairs: largest difference of scores read back, and on how many pairs.
    """
    prompt, (no, yes) = encoder.prompt, encoder.prompt.answers
    score = (PROBABILITY if kind in CLASS_OUTPUTS else LOG_ODDS).format(yes=yes, no=no, kind=kind)
    special = ", and special tokens that texts spell stay plain text" if prompt.escape_special_tokens else ""
    return NOTES.format(
        head=card_head(str(path.parent), source.hub_id, source.licence, "gguf"), file=path.name, name=source.name,
        licence=source.licence, dtype=dtype, difference=difference, pairs=pairs, command=server_command(path, encoder), score=score,
        prompt=prompt.name, special=special, longest=encoder.longest, query=encoder.query_limit(),
        chunks=CHUNKS.format(chunk=prompt.chunk_length) if prompt.chunk_length else "",
        normalizes=NORMALIZES if vocabulary.normalizes else "",
    )  # fmt: skip
