"""The settings of a prompt: its fields, what they may hold, and how they are saved.

Encoders, export and calibration need no more of a prompt than this.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import PromptError
from ..utils.files import atomic_file
from .slots import SLOT

KINDS = ("binary", "thinking", "setwise", "listwise")


@dataclass(frozen=True)
class PromptSettings:
    """The fields of a prompt. `Prompt` adds how they are read and joined with a tokenizer.

    Args:
        name: preset it came from, for display.
        kind: "binary", the answer is one of two tokens; "thinking", a thought comes first: <think>…</think><answer>…</answer>;
            "setwise", several documents are shown and the answer is the label of the best, one token; "listwise", the answer is
            their whole order, in writing: [2] > [1].
        first: "query", which documents then share, or "document", with the query behind it alone, which queries can share.
        system: text of the system turn.
        user: the user's turn, with the slots {instruction}, {query}, {document}; {query} may come again after the document. Where
            several documents are shown {documents} stands in place of {document}: with kinds "setwise" and "listwise", and with
            "thinking" if wanted.
            {open} and {close} become the special tokens `<|im_start|>`, `<|im_end|>` where the tokenizer has them (a blank and
            nothing elsewhere).
        instruction_format: what stands for {instruction} when there is one; nothing stands there otherwise.
        instruction: default instruction, "" for none.
        template: "auto" renders system and user by the tokenizer's chat template (plain text where it has none). A string
            with slots is taken literally. A list of strings is literal too, each string tokenised as one piece.
        answers: (not relevant, relevant), each one token in place.
        max_length: tokens. With lengths="whole" it bounds the whole prompt; with "content" (the released mxbai models' rule)
            query and document only.
        query_share: the query's largest share of max_length.
        lengths: "whole" or "content".
        document_format: what each of several documents is shown as, with {label} and {document}, and {query} and {label} again
            behind it where wanted, {open} and {close} as in `user`; line breaks part them.
        max_think_tokens: the thought's budget in tokens (kind "thinking"), after which it is closed.
        split_special: texts of users that spell a special token are taken as plain text.
    """

    name: str = "prorank"
    kind: str = "binary"
    first: str = "query"
    system: str = "Judge whether the document is relevant to the query: 1 if it is, 0 if it is not."
    user: str = "{instruction}Query:{open}{query}{close}\nDocument:{open}{document}{close}\nRelevant?"
    instruction_format: str = "Instruction:{open}{instruction}{close}\n"
    instruction: str = ""
    template: str | tuple[str, ...] = "auto"
    answers: tuple[str, str] = ("0", "1")
    max_length: int = 512
    query_share: float = 0.5
    lengths: str = "whole"
    document_format: str = "[{label}] {document}"
    max_think_tokens: int = 200
    split_special: bool = True

    def __post_init__(self) -> None:
        for key in ("name", "kind", "first", "system", "user", "instruction_format", "instruction", "lengths", "document_format"):
            if not isinstance(getattr(self, key), str):
                raise PromptError(f"prompt key '{key}' is {getattr(self, key)!r}; expected a text")
        if not isinstance(self.answers, (list, tuple)):
            raise PromptError(f"prompt key 'answers' is {self.answers!r}; expected two texts (not relevant, relevant)")
        if isinstance(self.answers, list):
            object.__setattr__(self, "answers", tuple(self.answers))
        if isinstance(self.template, list):
            object.__setattr__(self, "template", tuple(self.template))
        if self.kind not in KINDS:
            raise PromptError(f"prompt kind '{self.kind}' is not known; valid: {', '.join(KINDS)}")
        if self.first not in ("query", "document"):
            raise PromptError(f"prompt key 'first' must be 'query' or 'document', not {self.first!r}")
        if len(self.answers) != 2 or not all(isinstance(a, str) and a for a in self.answers):
            raise PromptError(f"answers must be two non-empty strings (not relevant, relevant), not {self.answers!r}")
        if self.answers[0] == self.answers[1]:
            raise PromptError(f"the two answers are the same: {self.answers[0]!r}")
        if not isinstance(self.max_length, int) or self.max_length < 16:
            raise PromptError(f"max_length must be a whole number of at least 16 tokens, not {self.max_length!r}")
        if not isinstance(self.max_think_tokens, int) or self.max_think_tokens < 1:
            raise PromptError(f"max_think_tokens must be a whole number of at least 1, not {self.max_think_tokens!r}")
        if not isinstance(self.query_share, (int, float)) or not 0 < self.query_share < 1:
            raise PromptError(f"query_share must lie between 0 and 1, not {self.query_share!r}")
        if self.lengths not in ("whole", "content"):
            raise PromptError(f"lengths must be 'whole' or 'content', not {self.lengths!r}")
        parts = (self.template,) if isinstance(self.template, str) else self.template
        if not isinstance(parts, tuple) or not parts or not all(isinstance(part, str) for part in parts):
            raise PromptError(f"prompt key 'template' is {self.template!r}; expected a text or a list of texts")
        (self._check_list if self.lists else self._check_pair)(self._text)

    @property
    def _text(self) -> str:
        """The text with the slots."""
        return self.user if self.template == "auto" else "".join(self.template)

    @property
    def lists(self) -> bool:
        """Whether it shows several documents."""
        return self.kind in ("setwise", "listwise") or (self.kind == "thinking" and "{documents}" in self._text)

    def _check_list(self, text: str) -> None:
        """Raise PromptError for slots that a prompt of several documents cannot have."""
        if self.first != "query":
            raise PromptError(f"prompt key 'first' is 'query' for prompts of kind {self.kind} that show several documents")
        if text.count("{documents}") != 1 or "{document}" in text:
            raise PromptError(f"the template of a {self.kind} prompt must hold {{documents}}, exactly once: {text[:80]!r}")
        if "{query}" not in text:
            raise PromptError(f"the template must hold {{query}}: {text[:80]!r}")
        before, *after = self.document_format.split("{document}")
        wrong = "must hold {document} exactly once" if len(after) != 1 else ""
        if not wrong and before.count("{label}") != 1:
            named = "{label}" in after[0] and not before.count("{label}")
            wrong = f"must {'name {label}' if named else 'hold {label} exactly once'} before {{document}}"
        if wrong:
            raise PromptError(f"prompt key 'document_format' {wrong}: {self.document_format!r}")

    def _check_pair(self, text: str) -> None:
        """Raise PromptError for slots that a prompt of one document cannot have."""
        if "{documents}" in text:
            kinds = "kind setwise, listwise or thinking"
            raise PromptError(f"{{documents}} is for prompts of {kinds}, and this one is {self.kind}: {text[:80]!r}")
        if text.count("{document}") != 1:
            raise PromptError(f"the template must hold {{document}} exactly once: {text[:80]!r}")
        if "{query}" not in text:
            raise PromptError(f"the template must hold {{query}}: {text[:80]!r}")
        before, after = text.split("{document}")
        if self.first == "document":
            if "{query}" in before or after.count("{query}") != 1:
                raise PromptError("a prompt with first: document must hold {query} exactly once, after {document}")
        elif "{query}" not in before:
            raise PromptError(
                "the template must place {query} before {document}, so that documents share their prefix "
                "(it may come again after it), or say first: document"
            )
        elif before.count("{query}") != 1:
            raise PromptError("the template must hold {query} exactly once before {document}")
        if "{instruction}" in after:
            raise PromptError("the template must place {instruction} before {document}, so that documents share their prefix")
        if self.template != "auto" and not isinstance(self.template, str):
            joint = next(s for s in self.template if "{document}" in s)
            if len(SLOT.findall(joint)) > 1:
                raise PromptError(f"{{document}} must be the only slot of its segment, so that it alone is cut: {joint[:80]!r}")

    def save(self, folder: str | Path) -> None:
        """Write `prompt.json` into `folder`."""
        with atomic_file(Path(folder) / "prompt.json") as handle:
            json.dump(asdict(self), handle, indent=2, ensure_ascii=False)

    def fingerprint(self) -> str:
        """Twelve hex digits that change whenever a setting changes."""
        told = asdict(self)
        if self.first == "query":
            del told["first"]  # calibrations and scores that were kept before the key was there stay good
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
