"""Write the folder of a GGUF export, if the file gives the model's scores when it is read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.adapters import vocabulary_rows
from ..checkpoints.card import FILE as CARD
from ..engine.heads import exceeds
from ..errors import ModelError
from ..prompts.pair_encoder import PairPromptEncoder
from ..utils.files import atomic_folder
from .classifier import model_scores, probe_pairs
from .gguf_file import FILE, file_scores, write_gguf
from .gguf_notes import gguf_notes
from .gguf_vocabulary import gguf_vocabulary
from .gguf_weights import check_architecture
from .notes import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4  # of the scores with fp32 weights; relative to the largest score if that exceeds 1


def check_gguf(config: Any, encoder: PairPromptEncoder) -> None:
    """Raise the errors of `export_gguf` that do not depend on the weights.

    Args:
        config: the model's configuration.
        encoder: encoder of its prompt.
    """
    check_architecture(config)
    gguf_vocabulary(encoder.direct(), config.vocab_size)


def export_gguf(folder: Path, model: PreTrainedModel, encoder: PairPromptEncoder, dtype: str, source: Source) -> tuple[float, int]:
    """Write the folder: the GGUF file, its prompt and its notes.

    Args:
        folder: folder to create.
        model: the causal LM, in fp32.
        encoder: encoder of its prompt, answered at once.
        dtype: type of the matrices, see `gguf_file.TYPES`.
        source: the exported checkpoint.

    Returns:
        (largest difference between the file's scores and the model's, number of pairs on which they were compared).

    Raises:
        ConfigError: the prompt leaves too few tokens for the comparison.
        ModelError: llama.cpp does not have the architecture, tokenizer or head; or the scores in fp32 differ.
        PromptError: llama.cpp would tokenise the prompt in another way.
    """
    pairs = probe_pairs(encoder, "file")
    vocabulary = gguf_vocabulary(encoder, vocabulary_rows(model))
    scores = model_scores(model, encoder, pairs)
    with atomic_folder(folder) as beside:
        write_gguf(beside / FILE, model, encoder, vocabulary, dtype, folder.name, source.licence)
        difference = float((file_scores(beside / FILE, model, encoder, pairs) - scores).abs().max())
        if dtype == "fp32" and exceeds(difference, scores, TOLERANCE):
            raise ModelError(f"{folder}: the file's scores differ by {difference:.1e} from the model's; nothing was written")
        encoder.prompt.save(beside)
        kind = model.config.model_type
        notes = gguf_notes(folder / FILE, encoder, vocabulary, kind, dtype, source, difference, len(pairs))
        (beside / CARD).write_text(notes, encoding="utf-8")
    return difference, len(pairs)
