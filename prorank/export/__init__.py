"""Write checkpoints for other libraries and servers. `prorank.export(...)` is `prorank.export.exporter.export`."""

from ..utils.callable_modules import make_callable
from .exporter import ExportResult, export

make_callable(__name__, "prorank.export.exporter:export")

__all__ = ["ExportResult", "export"]
