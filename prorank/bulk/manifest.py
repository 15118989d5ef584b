"""The manifest of an output folder: binds its shards to input, model, prompt and settings.

`_manifest.json` is written before the first shard. A later run continues only if everything that the scores and the files depend
on is equal. Its name begins with "_", so that readers of a folder of Parquet files skip it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import DataError
from .pair_files import PairFile
from .shard_plan import FilePart, Shard, make_shards
from .storage import OutputFolder

MANIFEST = "_manifest.json"
VERSION = 1
REMEDY = "write into a new folder, or delete this one"
# Messages about what identifies weights, prompt and so on, which is too long to show.
WORDS = {"weights": "another model", "prompt": "another prompt", "calibration": "another calibration"}
WORDS |= {"fingerprint": "other settings of the model"}


@dataclass(frozen=True)
class BulkManifest:
    """What the shards of a folder were made from.

    Attributes:
        settings: values by name that must be equal: columns, shard size, format, and what scores depend on.
        files: the files of the input.
        shards: the plan.
    """

    settings: dict[str, Any]
    files: list[PairFile]
    shards: list[Shard]

    def save(self, folder: OutputFolder) -> None:
        """Write the manifest."""
        files = [{"name": file.name, "stamp": file.stamp} for file in self.files]
        shards = [[s.file, s.part.first_row, s.part.rows, s.part.digest, s.part.offset, s.part.line] for s in self.shards]
        values = {"version": VERSION, "prorank": __version__, "settings": self.settings, "files": files, "shards": shards}
        folder.write(MANIFEST, json.dumps(values, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: OutputFolder) -> BulkManifest | None:
        """Read the manifest of a folder; None for a folder that is empty or does not exist.

        Raises:
            DataError: the manifest is damaged, of another version, or missing beside other files.
        """
        sizes = folder.sizes()
        if MANIFEST not in sizes:
            if foreign := sorted(name for name in sizes if not name.startswith(".")):
                raise DataError(f"{folder.url}: holds {foreign[0]} but no {MANIFEST}; name a new or an empty folder")
            return None
        try:
            values = json.loads(folder.read(MANIFEST))
            if values["version"] != VERSION:
                raise DataError(f"{folder.url}: {MANIFEST} has version {values['version']}, not {VERSION}; {REMEDY}")
            files = [PairFile("", file["name"], file["stamp"]) for file in values["files"]]
            parts: list[list[FilePart]] = [[] for _ in files]
            for file, *part in values["shards"]:
                parts[file].append(FilePart(*part))
            return cls(values["settings"], files, make_shards(parts))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{folder.url}: {MANIFEST} is damaged ({error!r}); {REMEDY}") from error

    def has_unchanged(self, files: Sequence[PairFile]) -> bool:
        """Whether files have names and stamps of the manifest, so that their rows need no check."""
        return [(file.name, file.stamp) for file in files] == [(file.name, file.stamp) for file in self.files]

    def check_settings(self, settings: dict[str, Any], folder: OutputFolder) -> None:
        """Raise DataError if a setting differs; only those in `settings` are compared."""
        for name, value in settings.items():
            before = self.settings.get(name)
            if before != value:
                how = WORDS.get(name) or f"{name} {_shown(before)}, now {_shown(value)}"
                raise DataError(f"{folder.url}: its shards were made with {how}; {REMEDY}")

    def check_shards(self, shards: Sequence[Shard], files: Sequence[PairFile], folder: OutputFolder) -> None:
        """Raise DataError if the rows of the input are not those of the manifest."""
        names, before = [file.name for file in files], [file.name for file in self.files]
        if names != before:
            other = next((name for name in (*names, *before) if (name in names) != (name in before)), names[0])
            raise DataError(f"{folder.url}: its shards were made from other files (first difference: {other}); {REMEDY}")
        for one, two in zip(shards, self.shards):
            if one != two:
                where = f"{files[one.file].url}, rows from {one.part.first_row}"
                raise DataError(f"{folder.url}: the input has changed since its shards were made ({where}); {REMEDY}")
        if len(shards) != len(self.shards):
            raise DataError(f"{folder.url}: the input has another number of rows than when its shards were made; {REMEDY}")


def _shown(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else "none" if value is None else str(value)
