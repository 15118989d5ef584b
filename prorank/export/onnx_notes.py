"""README.md of an ONNX export: how onnxruntime and transformers.js read it, and what they do otherwise than Reranker."""

from __future__ import annotations

import json
from pathlib import Path

from ..checkpoints.card import card_head
from ..prompts.pair_encoder import PairPromptEncoder
from .export_result import ExportResult
from .notes import BAKED, RENDERED, Source
from .onnx_graph import OPSET
from .pair_template import max_pair_tokens

NOTES = """\
{head}
A reranker as an ONNX graph (opset {opset}): from `input_ids` and `attention_mask` (int64 [batch, length], padded on either side) to
`logits` (float32 [batch, 1]), the score: raw log-odds (logit of "{yes}" minus logit of "{no}"). Made by `prorank export --format
onnx` from `{source}` (licence: {licence}).

| file | weights | largest difference from the model's scores on {pairs} pairs |
|---|---|---|
{files}
{kept}
## onnxruntime

```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder})
session = onnxruntime.InferenceSession({graph})
batch = tokenizer({texts}, padding=True{truncation}, return_tensors="np")
scores = session.run(["logits"], dict(batch))[0][:, 0]
```

{prompt}{chunks}
## transformers.js

`AutoModel.from_pretrained(folder, {{dtype: "{dtype}"}})` returns `logits`; its `AutoModelForSequenceClassification` knows no causal
architectures.

{javascript}"""
INSIDE = """\
- Its tokenizer is called as `tokenizer(queries, {text_pair: documents, padding: true})`. Its truncation cuts the end of the prompt:
  pass documents that leave the pair within MAX_TOKENS tokens, or cut their ids before the template is applied, as
  `examples/browser` of ProRank does.
- Special tokens in texts count as special tokens there.
"""
OUTSIDE = """\
- Render the texts with `chat_template.jinja` first.
"""
CHUNKS = """\
ProRank reads documents of more than {length} tokens in parts of that length; here they are read whole. Pass parts for equal scores.
"""
KEPT = """
The int8 graph keeps {count} linear layers in fp32, because single tokens have far larger inputs there than the others: {names}.
"""
WEIGHTS = {"model": ("fp32", "fp32"), "model_quantized": ("int8 (activations quantised at run time)", "q8")}


def onnx_notes(
    result: ExportResult, encoder: PairPromptEncoder, files: list[str], kept: list[str], template: bool, source: Source
) -> str:
    """Return the text of README.md.

    Args:
        result: folder and differences.
        encoder: encoder of the prompt.
        files: the graphs that were written, relative to the folder; the last one is shown in the example.
        kept: names of linear layers that the int8 graph keeps in fp32.
        template: whether the prompt is part of the tokenizer.
        source: the exported checkpoint.
    """
    no, yes = encoder.prompt.answers
    differences = {"model": result.difference, "model_quantized": result.int8_difference}
    rows = [f"| `{file}` | {WEIGHTS[Path(file).stem][0]} | {differences[Path(file).stem]:.1e} |" for file in files]
    prompt = (BAKED if template else RENDERED).format(
        name=encoder.prompt.name, max_tokens=max_pair_tokens(encoder),
        repeat=", without the repeated query" if encoder.repeats > 1 else "",
    )  # fmt: skip
    javascript = INSIDE.replace("MAX_TOKENS", str(max_pair_tokens(encoder))) if template else OUTSIDE
    return NOTES.format(
        head=card_head(str(result.folder), source.hub_id, source.licence, "transformers.js"), opset=OPSET, yes=yes, no=no,
        source=source.name, licence=source.licence, pairs=result.pairs, files="\n".join(rows), prompt=prompt, javascript=javascript,
        chunks=CHUNKS.format(length=encoder.prompt.chunk_length) if encoder.prompt.chunk_length else "",
        kept=KEPT.format(count=len(kept), names=", ".join(kept)) if kept else "",
        folder=json.dumps(str(result.folder)), graph=json.dumps(str(result.folder / files[-1])),
        dtype=WEIGHTS[Path(files[-1]).stem][1],
        texts='["a query"], ["a document"]' if template else '["a rendered prompt"]',
        truncation=', truncation="only_second"' if template else "",
    )  # fmt: skip
