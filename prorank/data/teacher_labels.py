"""Label pairs with a teacher model: each pair is sent to a chat endpoint, which thinks and answers yes or no.

Each answer is appended to a ledger (OUT.ledger.jsonl) when it arrives, under a hash of model, prompt and pair. An interrupted run
resumes from the ledger, and a finished one sends no requests.

Source of the prompt and of both formats: reference/rerank-r0, Data.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..utils.files import append_text, atomic_file, check_file, check_neighbour
from .chat_endpoint import Endpoint
from .jsonl import digest, filled, line_of, objects
from .reasoning_examples import reasoning_row

JUDGE = (
    "Evaluate if the Document comprehensively addresses the Query. All key concepts in the Query must be present and properly "
    "connected in the Document. The Document should provide information about the relationship between all query terms, not just "
    'mention them in isolation. Answer "yes" only if the Document satisfies the complete information need. Output exactly "yes" '
    'or "no".'
)
ANSWER = re.compile(r"[\"'*`]*(yes|no)[\"'*`]*[.!]?[\"'*`]*", re.IGNORECASE)
FORMS = ("training", "log")


@dataclass
class Pair:
    """A pair to label, and its key in the ledger."""

    query: str
    document: str
    key: str


def question(query: str, document: str) -> str:
    """Return the teacher's prompt for a pair."""
    return f"{JUDGE}\n\nQuery: {query}\n\nDocument: {document}"


def verdict(content: str, thought: str) -> tuple[str, str] | None:
    """Parse a reply.

    Args:
        content: text of the reply. A <think> block before the answer is the thought if `thought` is empty.
        thought: thought from the reply's own field, or "".

    Returns:
        ("yes" or "no", thought). None if the content has more than the answer, apart from quotes, asterisks and a full stop.
    """
    inside, closed, rest = content.rpartition("</think>")
    if closed:
        thought = thought or inside.strip().removeprefix("<think>").strip()
    match = ANSWER.fullmatch(rest.strip())
    return (match[1].lower(), thought.strip()) if match else None


def label(
    pairs: str | Path, out: str | Path, endpoint: Endpoint, form: str = "training", concurrency: int = 8, max_attempts: int = 3,
    retry_unparsed: bool = False, report: Callable[[int, int], Any] | None = None,
) -> str:  # fmt: skip
    """Label all pairs and write them.

    Args:
        pairs: JSONL with query and document, see `prorank sample-pairs`. Other keys are ignored.
        out: JSONL to write in the order of `pairs`, each pair once. It is replaced atomically.
        endpoint: the teacher; it is closed at the end.
        form: "training", or "log" for one line per query with a response and the rejected documents.
        concurrency: number of concurrent requests.
        max_attempts: how often to send a pair whose reply is neither yes nor no.
        retry_unparsed: send pairs again whose replies were neither in an earlier run.
        report: called with (number of labelled pairs, number of pairs).

    Returns:
        A one-line summary.

    Raises:
        ConfigError: an argument is out of range.
        DataError: a line is bad, or the endpoint rejects a request or stays unreachable. Earlier answers stay in the ledger.
    """
    if form not in FORMS:
        raise ConfigError(f"--form {form}: expected {' or '.join(FORMS)}")
    if concurrency < 1 or max_attempts < 1:
        raise ConfigError("--concurrency and --max-attempts must be at least 1")
    check_file(out)
    check_neighbour(out, "its ledger")
    todo = {pair.key: pair for pair in read_pairs(pairs, endpoint.model)}
    ledger = Path(f"{out}.ledger.jsonl")
    known = {key: row for key, row in _entries(ledger) if key in todo and (row["answer"] or not retry_unparsed)}
    open_pairs = [pair for key, pair in todo.items() if key not in known]
    ledger.parent.mkdir(parents=True, exist_ok=True)
    _end_line(ledger)
    with closing(endpoint):
        lock = threading.Lock()

        def one(pair: Pair) -> None:
            row = _label_pair(pair, endpoint, max_attempts)
            with lock:
                known[pair.key] = row
                append_text(ledger, json.dumps({"key": pair.key, **row}) + "\n")
                if report:
                    report(len(known), len(todo))

        _all(one, open_pairs, concurrency, endpoint)
    labelled = [(pair, known[key]) for key, pair in todo.items() if known[key]["answer"]]
    rows = list(_log_rows(labelled) if form == "log" else map(_training_row, labelled))
    with atomic_file(out) as handle:
        handle.writelines(map(line_of, rows))
    spent = [sum(row[name] for _, row in _entries(ledger)) for name in ("prompt_tokens", "completion_tokens")]
    yes = sum(row["answer"] == "yes" for _, row in labelled)
    return (
        f"{out}: {len(labelled)} pairs labelled ({yes} yes, {len(labelled) - yes} no), {len(todo) - len(labelled)} without a valid "
        f"answer; {len(open_pairs)} sent now, {endpoint.retries} retries; {spent[0]} prompt and {spent[1]} completion tokens "
        f"in {ledger}"
    )


def read_pairs(path: str | Path, model: str) -> Iterator[Pair]:
    """Read pairs from a JSONL file. Raises DataError naming file and line."""
    empty = True
    for number, row in objects(path):
        where, empty = f"{path}:{number}", False
        query, document = filled(row, "query", where), filled(row, "document", where)
        yield Pair(query, document, digest(model, JUDGE, query, document).hex())
    if empty:
        raise DataError(f"{path}: no pairs")


def _all(one: Callable[[Pair], None], pairs: list[Pair], concurrency: int, endpoint: Endpoint) -> None:
    """Label all pairs. After the first error or Ctrl-C no new requests start, and pending answers still go into the ledger."""
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(one, pair) for pair in pairs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            endpoint.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _label_pair(pair: Pair, endpoint: Endpoint, max_attempts: int) -> dict[str, Any]:
    """Return a ledger row with the first reply that is yes or no, or with `answer` None after `max_attempts`."""
    row: dict[str, Any] = {"answer": None, "think": "", "prompt_tokens": 0, "completion_tokens": 0}
    for _ in range(max_attempts):
        reply = endpoint.complete(question(pair.query, pair.document))
        for name in ("prompt_tokens", "completion_tokens"):
            row[name] += getattr(reply, name)
        answer_and_thought = verdict(reply.content, reply.thought)
        if answer_and_thought:
            row["answer"], row["think"] = answer_and_thought
            break
        row["reply"] = reply.content[-200:]
    return row


def _entries(ledger: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, row) of a ledger. Skips lines truncated by a crash."""
    if not ledger.exists():
        return
    for line in ledger.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
            yield row.pop("key"), row
        except ValueError:
            continue


def _end_line(ledger: Path) -> None:
    """Terminate a truncated last line, so that the next append starts a new line."""
    if ledger.exists() and not ledger.read_bytes().endswith(b"\n"):
        append_text(ledger, "\n")


def _training_row(labelled: tuple[Pair, dict[str, Any]]) -> dict[str, Any]:
    pair, row = labelled
    return reasoning_row(pair.query, pair.document, row["think"], int(row["answer"] == "yes"))


def _log_rows(labelled: list[tuple[Pair, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Rows in the log format. The first relevant document of a query carries all rejected ones; queries without one are omitted."""
    queries: dict[str, tuple[list, list]] = {}
    for pair, row in labelled:
        queries.setdefault(pair.query, ([], []))[row["answer"] == "yes"].append((pair.document, row["think"]))
    for query, (no, yes) in queries.items():
        for at, (document, think) in enumerate(yes):
            others = [{"document": text, "thinking": why} for text, why in no] if at == 0 else []
            yield {"query": query, "response": document, "response_thinking": think, "rejected_response": others}
