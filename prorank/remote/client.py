"""Ranking by a server in place of a model of one's own: ours, TEI, vLLM, or whatever speaks as Jina or Cohere do.

The order is made here, from the scores of all documents, so ties and cuts by score are those of `Reranker.rank`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, KeyRefused, ServerAway, ServerError, ServerFailed, TooBusy, TooLarge
from ..prompts.pair_encoder import TruncationCounts
from ..rank.documents import Document, GeneratedThought, Hit, make_hits
from ..rank.validation import RankOptions, validate_batch
from ..utils.http import Connection, pauses, retry_after
from ..utils.pickling import MadeByArguments
from .client_dialects import FORMS as DIALECTS
from .client_dialects import GUESSES, LOG_ODDS, body_of, dialect_of, hits_of, split

MOST = 1000  # documents of a request where the server does not say
AT_ONCE = 4  # requests under way
WAITING = (429, 503)  # statuses that a later try may not meet


class Remote(MadeByArguments):
    """A server that ranks; closed by `with`. It pickles as its arguments, the key among them, and connects anew.

    Args:
        url: its address, or that of its endpoint.
        dialect: "tei", "jina", "cohere" or "vllm"; "auto" asks the server what it is.
        model: what it shall rank with, where it has several.
        key: sent as `Authorization: Bearer`.
        patience: seconds for which a request is tried again while the server is busy.
        timeout: seconds for one answer.

    Attributes:
        dialect: that is spoken. ours: whether the server is `prorank serve`.
        meaning: what a score is. longest: tokens of a prompt there, if it is known. cuts: counted up over all calls.

    Raises:
        ConfigError: the address or the dialect is none. ServerError: see there.
    """

    def __init__(
        self, url: str, dialect: str = "auto", model: str | None = None, key: str | None = None, patience: float = 60,
        timeout: float = 300,
    ) -> None:  # fmt: skip
        self.url, told = split(url)
        self.model, self.patience, self.cuts = model, patience, TruncationCounts()
        asked = dialect_of(dialect) or told
        self.connection = Connection(self.url, "--server", key, timeout)
        try:
            self._meet(asked)
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def rank(
        self, query: str, documents: Sequence[Document], top_k: int | None = None, min_score: float | None = None,
        instruction: str | None = None, thoughts: bool = False, top_n: int | None = None,
    ) -> list[Hit]:  # fmt: skip
        """See `Reranker.rank`. A score is what `meaning` says; probabilities and (with `thoughts`) thoughts are ours."""
        options = RankOptions(top_k, min_score, instruction=instruction, top_n=top_n)
        lists = validate_batch([query], [documents])
        rows = self._all(lists.queries, lists.texts, options.instruction, thoughts)[0]
        said = _thoughts([hit for _, hit in rows]) if thoughts else ()
        scores = np.array([score for score, _ in rows], np.float32)
        found = [hit.get("probability") for _, hit in rows] if self.ours else [None]
        sure = None if None in found else np.array(found, np.float64)
        return make_hits(lists.documents[0], scores, options.top_k, options.min_score, said, sure)

    def score_lists(
        self, queries: Sequence[str], documents: Sequence[Sequence[Document]], instruction: str | None = None
    ) -> list[np.ndarray]:
        """Scores of each query's documents: one fp32 array a query, in input order."""
        instruction = RankOptions(instruction=instruction).instruction
        lists = validate_batch(queries, documents)
        found = self._all(lists.queries, lists.texts, instruction)
        return [np.array([score for score, _ in rows], np.float32) for rows in found]

    # What the server is.

    def _meet(self, asked: str | None) -> None:
        """Learn from /info, which ours and TEI have, and from the list of models, which vLLM has, who answers."""
        info = self._told("/info")
        self.ours = {"scores", "prompt", "model_type"} <= set(info)
        self.most = _positive(info.get("max_client_batch_size")) or MOST
        self.longest = info.get("max_input_length")
        self.lists, self.thinks = self.ours and info["scores"] == "place", self.ours and bool(info.get("thinks"))
        known = asked or ("jina" if self.ours else "tei" if "model_type" in info else "vllm" if self._is_vllm() else None)
        self.dialect, *self.guesses = [known] if known else GUESSES
        self.meaning = ("minus the place" if self.lists else LOG_ODDS) if self.ours else DIALECTS[self.dialect].meaning

    def _told(self, path: str) -> dict[str, Any]:
        """The object at a path; an empty one where there is none."""
        answer = self._send("GET", path)
        if answer.status_code in (401, 403):
            self._refuse(answer)
        try:
            value = answer.json() if answer.status_code == 200 else {}
        except (ValueError, RecursionError):
            value = {}
        return value if isinstance(value, dict) else {}

    def _is_vllm(self) -> bool:
        cards = self._told("/v1/models").get("data")
        return isinstance(cards, list) and any(isinstance(card, dict) and card.get("owned_by") == "vllm" for card in cards)

    # What it is asked.

    def _all(
        self, queries: list[str], lists: list[list[str]], instruction: str | None, thoughts: bool = False
    ) -> list[list[tuple[float, dict]]]:
        """(score, hit) of the texts of each query's list, in input order; several requests at once."""
        more = self._more(instruction, thoughts)
        jobs = []
        for number, (query, texts) in enumerate(zip(queries, lists)):
            if self.lists and len(texts) > self.most:
                raise DataError(f"{self.url} puts {self.most} documents in order at most; there are {len(texts)}: take fewer")
            jobs += [(number, query, texts[at : at + self.most]) for at in range(0, len(texts), self.most)]
        found: list[list] = [[] for _ in lists]
        cut: set[int] = set()  # lists whose query was cut, in however many requests
        for some in (jobs[:1], jobs[1:]):  # the first one alone, for it settles the dialect
            for number, (rows, query_cut) in self._in_turn(some, more):
                found[number] += rows
                cut |= {number} if query_cut else set()
        self.cuts.queries += len(cut)
        return found

    def _in_turn(self, jobs: list[tuple[int, str, list[str]]], more: dict[str, Any]) -> Iterator[tuple[int, tuple[list, bool]]]:
        """(number of the list, what came and whether the query was cut) of each job, in order."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(self._ask, query, texts, more) for _, query, texts in jobs]
            try:
                for job, future in zip(jobs, futures):
                    yield job[0], self._heard(*future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _more(self, instruction: str | None, thoughts: bool) -> dict[str, Any]:
        """Fields of a request that not every server has. Raises ConfigError for what this one has not."""
        if thoughts and not self.thinks:
            raise ConfigError(f"--show-thoughts: {self.url} is no `prorank serve` of a model that thinks")
        if instruction and not (self.ours or DIALECTS[self.dialect].instructs):
            raise ConfigError(f"--instruction: the dialect {self.dialect} of {self.url} has none; put it into the query")
        asked = {"instruction": instruction} if instruction else {}
        return asked | ({"raw_scores": True, "return_thoughts": thoughts} if self.ours else {})

    def _ask(self, query: str, texts: list[str], more: dict[str, Any]) -> tuple[list, Any]:
        """(score and hit of each text, headers). Raises ServerError."""
        form = DIALECTS[self.dialect]
        answer = self._send("POST", form.path, json=body_of(form, query, texts, self.model, more))
        if answer.status_code in (404, 405) and self.guesses:  # the meaning stays: it may not heed what vLLM does
            self.dialect = self.guesses.pop(0)
            return self._ask(query, texts, more)
        if answer.status_code != 200:
            self._refuse(answer)
        self.guesses = []
        try:
            return hits_of(form, answer.json(), len(texts)), answer.headers
        except (ValueError, RecursionError) as error:
            why = f"the answer is not of the dialect {self.dialect} ({error}); try another --dialect"
            raise ServerError(f"{self.url}: {why}") from error

    def _heard(self, rows: list, headers: Any) -> tuple[list, bool]:
        """(rows, whether the query was cut); note what a server of ours says that it cut of the documents."""
        self.cuts.total += len(rows)
        self.cuts.documents += _positive(headers.get("x-prorank-truncated-documents"))
        return rows, _positive(headers.get("x-prorank-truncated-queries")) > 0

    # How.

    def _send(self, method: str, path: str, **more: Any) -> Any:
        """The answer, whatever its status; while the server is busy it is asked again, as long as patience lasts."""
        end = time.monotonic() + self.patience
        for wait in pauses(0.5, 8.0):
            try:
                answer = self.connection.request(method, path, **more)
            except self.connection.failures as error:
                raise ServerAway(f"{self.url}: no answer: {self.connection.explain(error)}") from error
            if answer.status_code not in WAITING:
                return answer
            asked = retry_after(answer.headers.get("retry-after")) or 0.0
            if time.monotonic() + max(wait, asked) > end:
                after = f"for {asked:.0f} seconds more" if asked > wait else f"after {self.patience:.0f} seconds"
                said = f"{self.connection.where}: busy {after} (status {answer.status_code}); try again later"
                raise TooBusy(said, answer.status_code)
            time.sleep(max(wait, asked))

    def _refuse(self, answer: Any) -> None:
        """Raise what a status means."""
        status, where = answer.status_code, self.connection.where
        said = " ".join(answer.text[:200].split())
        if by_proxy := self.connection.refused_by_proxy(status):
            raise ServerError(f"{self.url}: {by_proxy}", status)
        if status in (401, 403):
            raise KeyRefused(f"{where}: it wants a key, or another one (status {status}); give --api-key-env NAME", status)
        if status == 413:
            raise TooLarge(f"{where}: the request is too large for it (413): {said}; give fewer or shorter documents", status)
        if status >= 500 or status == 424:
            raise ServerFailed(f"{where}: the server failed (status {status}): {said}", status)
        raise ServerError(f"{where}: status {status} in the dialect {self.dialect}: {said}", status)


def _thoughts(found: list[dict[str, Any]]) -> list[GeneratedThought]:
    """The thoughts of hits."""
    return [GeneratedThought(hit["thought"], hit.get("thought_cut") or False) for hit in found]


def _positive(value: Any) -> int:
    """A count above 0 as a server tells it, as a number or as text; 0 for anything else."""
    try:
        return max(0, int(value))
    except (ValueError, TypeError, OverflowError):
        return 0
