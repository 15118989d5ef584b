"""What `export` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportResult:
    """Result of `export`.

    Attributes:
        folder: folder of the export.
        format: "seq-cls", "onnx", "merged" or "gguf".
        command: a server's command line for the folder; "" if it cannot serve it as a reranker.
        difference: largest difference between the export's scores and the model's; None for a merged model.
        pairs: number of pairs on which they were compared.
        int8_difference: the same for the int8 graph; None for other formats.
        server: name of the server.
    """

    folder: Path
    format: str
    command: str
    difference: float | None = None
    pairs: int = 0
    int8_difference: float | None = None
    server: str = "vLLM"

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.folder}: a plain causal model"
        rounded = "" if self.int8_difference is None else f", in int8 by {self.int8_difference:.1e}"
        return f"{self.folder}: scores differ from the model's by at most {self.difference:.1e}{rounded} on {self.pairs} pairs"
