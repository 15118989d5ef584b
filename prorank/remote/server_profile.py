"""Detect the properties of a server: its kind, its limits, and the meaning of its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .client_dialects import DIALECTS, FALLBACKS, LOG_ODDS
from .server_connection import ServerConnection

DEFAULT_MAX_DOCUMENTS = 1000  # maximum number of documents of a request if the server does not report it


@dataclass(frozen=True)
class ServerProfile:
    """Properties of a rerank server.

    Attributes:
        is_prorank: whether it is `prorank serve`.
        dialects: its dialect, or the dialects to try, in order.
        max_documents: maximum number of documents of a request.
        longest: number of tokens of its longest prompt, if known.
        lists: whether its model orders lists and gives no log-odds.
        thinks: whether its model thinks.
    """

    is_prorank: bool
    dialects: tuple[str, ...]
    max_documents: int
    longest: int | None
    lists: bool
    thinks: bool

    @property
    def meaning(self) -> str:
        """The meaning of its scores."""
        if self.is_prorank:
            return "minus the place" if self.lists else LOG_ODDS
        return DIALECTS[self.dialects[0]].meaning


def read_profile(server: ServerConnection, dialect: str | None) -> ServerProfile:
    """Detect the properties of a server from /info (`prorank serve` and TEI) and from its list of models (vLLM).

    Args:
        server: the connection.
        dialect: the dialect to use; None to detect it.

    Raises:
        ServerError: the server does not answer, or rejects the key.
    """
    info = server.get_object("/info")
    is_prorank = {"scores", "prompt", "model_type"} <= set(info)
    dialect = dialect or ("jina" if is_prorank else "tei" if "model_type" in info else "vllm" if _is_vllm(server) else None)
    return ServerProfile(
        is_prorank, (dialect,) if dialect else FALLBACKS,
        max_documents=positive_count(info.get("max_client_batch_size")) or DEFAULT_MAX_DOCUMENTS,
        longest=info.get("max_input_length"), lists=is_prorank and info["scores"] == "place",
        thinks=is_prorank and bool(info.get("thinks")),
    )  # fmt: skip


def _is_vllm(server: ServerConnection) -> bool:
    models = server.get_object("/v1/models").get("data")
    return isinstance(models, list) and any(isinstance(model, dict) and model.get("owned_by") == "vllm" for model in models)


def positive_count(value: Any) -> int:
    """Return a count that a server reports as a number or as text; 0 for anything else and for negative numbers."""
    try:
        return max(0, int(value))
    except (ValueError, TypeError, OverflowError):
        return 0
