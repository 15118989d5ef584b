"""Columns of (query, document) pairs in Arrow tables, and checks of their types and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError, extra, nearest

IDS = ("id", "query_id", "doc_id")  # copied to the output where the input has them
ADDED = ("row", "score", "probability")  # columns that scoring adds
Where = Callable[[int], str]  # names a row of a table in messages


@dataclass(frozen=True)
class PairColumns:
    """The columns to read.

    Attributes:
        query, document: columns of the texts.
        ids: columns that are copied to the output; None for those of `IDS` that the input has.

    Raises:
        ConfigError: a column has two roles, or the name of a column that scoring adds.
    """

    query: str = "query"
    document: str = "document"
    ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        names = [self.query, self.document, *(self.ids or ())]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"the column {twice!r} is named twice; query, document and ids are different columns")
        if taken := next((name for name in self.ids or () if name in ADDED), None):
            raise ConfigError(f"the id column {taken!r} has the name of a column of the output ({', '.join(ADDED)}); rename it")

    def of_input(self, present: Sequence[str], where: str) -> PairColumns:
        """Return the columns of an input with these columns, so that `ids` is known.

        Raises:
            DataError: a column is missing; the message names it, and the columns that there are.
        """
        for name, option in ((self.query, "--query-column"), (self.document, "--document-column")):
            if name not in present:
                raise DataError(f"{where}: no column {name!r}{_hint(name, present)}; name it by {option}")
        ids = tuple(name for name in IDS if name in present) if self.ids is None else self.ids
        if missing := next((name for name in ids if name not in present), None):
            raise DataError(f"{where}: no column {missing!r}{_hint(missing, present)}; name the columns of ids by --id-columns")
        return PairColumns(self.query, self.document, tuple(name for name in ids if name not in (self.query, self.document)))

    @property
    def names(self) -> list[str]:
        """All columns, the texts first."""
        return [self.query, self.document, *(self.ids or ())]


def _hint(name: str, present: Sequence[str]) -> str:
    return nearest(name, present) if present else "; it has none"


def check_types(schema: Any, columns: PairColumns, where: str) -> None:
    """Raise DataError if a column of texts has another type, or occurs twice.

    Args:
        schema: schema of pyarrow.
        columns: the columns.
        where: the file.
    """
    with extra("bulk"):
        import pyarrow.types as types
    text_types = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    for name in columns.names:
        if schema.names.count(name) > 1:
            raise DataError(f"{where}: the column {name!r} occurs twice; rename one")
    for name in (columns.query, columns.document):
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not any(is_type(kind) for is_type in text_types):
            raise DataError(f"{where}: column {name!r} holds {kind}, not text; cast it to string, or name the column of texts")


def check_rows(table: Any, columns: PairColumns, where: Where) -> Any:
    """Check the texts of a table.

    Args:
        table: table of pyarrow with the columns.
        columns: the columns.
        where: names the row of this index in messages.

    Returns:
        The table with plain text columns in place of dictionaries.

    Raises:
        DataError: a text is missing or not UTF-8, or a query is blank; the message names file, row and column.
    """
    with extra("bulk"):
        import pyarrow as pa
        import pyarrow.compute as pc
    for name in (columns.query, columns.document):
        texts = table.column(name).cast(pa.large_string())
        _check_utf8(texts, name, where)
        if texts.null_count:
            row = pc.index(pc.is_null(texts), True).as_py()
            raise DataError(f"{where(row)}: column {name!r} is missing (null); drop the row or give it a text")
        blank = pc.index(pc.equal(pc.utf8_trim_whitespace(texts), ""), True).as_py() if name == columns.query else -1
        if blank >= 0:
            raise DataError(f"{where(blank)}: column {name!r} is blank; a query needs a text, so drop the row or give it one")
        table = table.set_column(table.schema.get_field_index(name), name, texts)
    return table.select(columns.names)


def _check_utf8(texts: Any, name: str, where: Where) -> None:
    """Raise DataError naming the first row whose bytes are not UTF-8, which Arrow files may hold."""
    try:
        texts.validate(full=True)
    except ValueError:
        for row, text in enumerate(texts):
            try:
                text.as_py()
            except UnicodeDecodeError as error:
                raise DataError(f"{where(row)}: column {name!r} is not UTF-8 text ({error.reason}); convert it to UTF-8") from error
        raise
