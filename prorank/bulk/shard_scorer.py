"""Score shards with one model, and write each as one file.

A worker (this process, or an actor on a cluster) has one `ShardScorer`, which loads its model with the first shard. A shard whose
file exists is skipped, so a shard may be given out twice: after the death of a worker, or if a worker that was lost comes back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, ModelError
from .pair_columns import PairColumns
from .pair_files import PairFile
from .pair_readers import make_reader
from .shard_files import encode_table, scored_table, shard_name
from .shard_plan import Shard, by_length
from .storage import OutputFolder

if TYPE_CHECKING:
    from ..reranker import Reranker


@dataclass(frozen=True)
class ModelSpec:
    """How a worker loads its model.

    Attributes:
        model: name, absolute folder or hub id, see `Reranker`.
        options: further arguments of `Reranker`, picklable.
        instruction: replaces the prompt's instruction.
        threads: compute threads of a worker on a CPU; None keeps PyTorch's.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    instruction: str | None = None
    threads: int | None = None

    def load(self) -> Reranker:
        """Load the model.

        Raises:
            ModelError, PromptError: see `Reranker`.
            ConfigError: the options are those of a method of lists, which has no scores of pairs.
        """
        import torch

        from ..reranker import Reranker

        if self.threads:
            torch.set_num_threads(self.threads)
        reranker = Reranker(self.model, **self.options)
        if reranker.compares_documents:
            raise ConfigError(f"{self.model}: compares documents with each other; scores of pairs need --method pointwise")
        return reranker

    def describe(self) -> dict[str, Any]:
        """Load the model, and return what its scores depend on: values for the manifest, by name."""
        reranker = self.load()
        calibration = reranker.calibration if self.instruction in (None, reranker.prompt.instruction) else None
        return {
            "weights": " ".join(reranker.weight_hashes),
            "prompt": reranker.prompt_fingerprint,
            "max_length": reranker.encoder.longest,
            "instruction": self.instruction,
            "dtype": reranker.choices["dtype"].value if self.options.get("dtype", "auto") == "auto" else self.options["dtype"],
            "device": reranker.device.type,
            "calibration": calibration and _hash(dataclasses.asdict(calibration)),
            "fingerprint": reranker.fingerprint,
        }


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


class ShardScorer:
    """Scores shards of an input.

    Args:
        spec: the model.
        fingerprint: what `Reranker.fingerprint` must be.
        files: the files of the input.
        columns: the columns to read.
        out: URL of the output folder.
        form: format of the output.
    """

    def __init__(
        self, spec: ModelSpec, fingerprint: str | None, files: Sequence[PairFile], columns: PairColumns, out: str, form: str
    ) -> None:
        self.spec, self.fingerprint, self.files, self.columns, self.out, self.form = spec, fingerprint, files, columns, out, form
        self._reranker: Reranker | None = None

    @property
    def reranker(self) -> Reranker:
        """The worker's model. Raises ModelError if it is not the one of the manifest."""
        if self._reranker is None:
            reranker = self.spec.load()
            if reranker.fingerprint != self.fingerprint:
                raise ModelError(
                    f"{self.spec.model}: on {socket.gethostname()} it has other weights, prompt, dtype or device ("
                    f"{reranker.device.type}) than where the work began; give all machines the same files and devices"
                )
            self._reranker = reranker
        return self._reranker

    def __call__(self, values: dict[str, Any]) -> dict[str, Any]:
        """Score a shard and write its file.

        Args:
            values: the shard as a dict, see `Shard.as_dict`.

        Returns:
            number and rows of the shard, the worker (host:process), its processor seconds, and cuts: counts of cut texts.

        Raises:
            DataError: the input has changed, or a file cannot be read or written.
            ModelError: the model cannot be loaded, or a score is not finite.
        """
        shard, folder = Shard.of_dict(values), OutputFolder(self.out)
        name = shard_name(shard, self.form)
        report: dict[str, Any] = {"number": shard.number, "rows": shard.part.rows, "cpu_seconds": 0.0, "cuts": {}}
        report["worker"] = f"{socket.gethostname()}:{os.getpid()}"
        if folder.has(name):
            return report
        rows = make_reader(self.files[shard.file].url).read(self.columns, shard.part)
        before, begin = dataclasses.asdict(self.reranker.cuts), time.process_time()
        scores = self.score(rows.column(self.columns.query).to_pylist(), rows.column(self.columns.document).to_pylist())
        probabilities = self.reranker.probabilities(scores, self.spec.instruction)
        folder.write(name, encode_table(scored_table(rows, self.columns, shard, scores, probabilities), self.form))
        after = dataclasses.asdict(self.reranker.cuts)
        return report | {"cpu_seconds": time.process_time() - begin, "cuts": {key: after[key] - before[key] for key in after}}

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Return scores fp32 [n] of pairs. The engine reads them from the longest to the shortest, and batches them by tokens."""
        order = by_length(documents)
        scores = np.empty(len(order), np.float32)
        scores[order] = self.reranker.score([(queries[i], documents[i]) for i in order], self.spec.instruction)
        return scores
