"""Prompt: the only thing that turns (query, document) into token ids, in training, evaluation, serving and export alike.

Hard fact: ids are joined from separately tokenised segments and only the document is cut (an over-long query is capped at its
share first), so the words that ask for the answer always survive. Each cut is counted.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import PromptError, nearest
from .files import atomic_file

SLOT = re.compile(r"\{(instruction|query|document)\}")
SENTINEL = "Xq7{}7qX"  # survives every chat template's trimming, and no text contains it by chance
CHAT_MARK = "{#- chat +#}"  # in a saved chat template, what follows is the tokenizer's own
CHAT_END = "{%+ endif -%}"


@dataclass(frozen=True)
class Encoded:
    """One prompt as ids.

    `ids`: the whole prompt. `document_start`, `document_end`: where the document segment stands in it; all before
    `document_start` depends on the query alone. `document_cut`, `query_cut`: tokens left out of each.
    """

    ids: list[int]
    document_start: int
    document_end: int
    document_cut: int = 0
    query_cut: int = 0


@dataclass
class Cuts:
    """How many prompts were built, and in how many of them the document or the query was cut."""

    total: int = 0
    documents: int = 0
    queries: int = 0

    def count(self, encoded: Encoded) -> None:
        self.total += 1
        self.documents += encoded.document_cut > 0
        self.queries += encoded.query_cut > 0

    def __str__(self) -> str:
        return f"{self.documents} of {self.total} documents cut, {self.queries} queries cut"


@dataclass(frozen=True)
class Prompt:
    """Settings of a prompt; `bind(tokenizer)` makes it ready to encode.

    Args:
        name: preset it came from, for display.
        kind: "binary", the answer is one of two tokens.
        system: text of the system turn.
        user: the user's turn, with the slots {instruction}, {query}, {document}; {query} may come again after the document.
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
        split_special: texts of users that spell a special token are taken as plain text.
    """

    name: str = "prorank"
    kind: str = "binary"
    system: str = "Judge whether the document is relevant to the query: 1 if it is, 0 if it is not."
    user: str = (
        "{instruction}Query:{open}{query}{close}\nDocument:{open}{document}{close}\nRelevant?"
    )
    instruction_format: str = "Instruction:{open}{instruction}{close}\n"
    instruction: str = ""
    template: str | tuple[str, ...] = "auto"
    answers: tuple[str, str] = ("0", "1")
    max_length: int = 512
    query_share: float = 0.5
    lengths: str = "whole"
    split_special: bool = True

    def __post_init__(self) -> None:
        for key in ("name", "kind", "system", "user", "instruction_format", "instruction", "lengths"):
            if not isinstance(getattr(self, key), str):
                raise PromptError(f"prompt key '{key}' is {getattr(self, key)!r}; expected a text")
        if not isinstance(self.answers, (list, tuple)):
            raise PromptError(f"prompt key 'answers' is {self.answers!r}; expected two texts (not relevant, relevant)")
        if isinstance(self.answers, list):
            object.__setattr__(self, "answers", tuple(self.answers))
        if isinstance(self.template, list):
            object.__setattr__(self, "template", tuple(self.template))
        if self.kind != "binary":
            raise PromptError(f"prompt kind '{self.kind}' is not known; valid: binary")
        if len(self.answers) != 2 or not all(isinstance(a, str) and a for a in self.answers):
            raise PromptError(f"answers must be two non-empty strings (not relevant, relevant), not {self.answers!r}")
        if self.answers[0] == self.answers[1]:
            raise PromptError(f"the two answers are the same: {self.answers[0]!r}")
        if not isinstance(self.max_length, int) or self.max_length < 16:
            raise PromptError(f"max_length must be a whole number of at least 16 tokens, not {self.max_length!r}")
        if not isinstance(self.query_share, (int, float)) or not 0 < self.query_share < 1:
            raise PromptError(f"query_share must lie between 0 and 1, not {self.query_share!r}")
        if self.lengths not in ("whole", "content"):
            raise PromptError(f"lengths must be 'whole' or 'content', not {self.lengths!r}")
        parts = (self.template,) if isinstance(self.template, str) else self.template
        if not isinstance(parts, tuple) or not parts or not all(isinstance(part, str) for part in parts):
            raise PromptError(f"prompt key 'template' is {self.template!r}; expected a text or a list of texts")
        text = self.user if self.template == "auto" else "".join(self.template)
        if text.count("{document}") != 1:
            raise PromptError(f"the template must hold {{document}} exactly once: {text[:80]!r}")
        if "{query}" not in text:
            raise PromptError(f"the template must hold {{query}}: {text[:80]!r}")
        if text.index("{query}") > text.index("{document}"):
            raise PromptError(
                "the template must place {query} before {document}, so that documents share their prefix "
                "(it may come again after it)"
            )
        if text[: text.index("{document}")].count("{query}") != 1:
            raise PromptError("the template must hold {query} exactly once before {document}")
        if "{instruction}" in text[text.index("{document}") :]:
            raise PromptError("the template must place {instruction} before {document}, so that documents share their prefix")
        if self.template != "auto" and not isinstance(self.template, str):
            joint = next(s for s in self.template if "{document}" in s)
            if len(SLOT.findall(joint)) > 1:
                raise PromptError(f"{{document}} must be the only slot of its segment, so that it alone is cut: {joint[:80]!r}")

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> "Prompt":
        """A named prompt, with `changes` to its fields. Raises PromptError for an unknown name or field."""
        if name not in PRESETS:
            raise PromptError(f"unknown prompt preset '{name}'{nearest(name, PRESETS)}")
        known = [f.name for f in fields(cls)]
        for key in changes:
            if key not in known:
                raise PromptError(f"prompt: unknown key '{key}'{nearest(key, known)}")
        return replace(PRESETS[name], **changes)

    @classmethod
    def of(cls, value: "str | dict | Prompt | None", **changes: Any) -> "Prompt":
        """A Prompt from a preset's name, a mapping ({preset: name, key: value}), a YAML file or a Prompt."""
        if isinstance(value, Prompt):
            return replace(value, **changes)
        if isinstance(value, (str, Path)) and str(value).endswith((".yaml", ".yml", ".json")):
            value = _read_yaml(Path(value))
        if isinstance(value, dict):
            value = {str(key): item for key, item in value.items()}
            return cls.preset(value.pop("preset", "prorank"), **{**value, **changes})
        return cls.preset(value or "prorank", **changes)

    def save(self, folder: str | Path) -> None:
        """Write `prompt.json` into `folder`."""
        with atomic_file(Path(folder) / "prompt.json") as handle:
            json.dump(asdict(self), handle, indent=2, ensure_ascii=False)

    @classmethod
    def load(cls, folder: str | Path) -> "Prompt | None":
        """Read `prompt.json` of a checkpoint folder, None where it has none."""
        path = Path(folder) / "prompt.json"
        if not path.is_file():
            return None
        try:
            return cls.preset("prorank", **json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise PromptError(f"{path}: not a saved prompt ({error})") from error

    def fingerprint(self) -> str:
        """Twelve hex digits that change whenever a setting changes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def bind(self, tokenizer: Any, max_positions: int | None = None) -> "BoundPrompt":
        """Join with a tokenizer (and the model's number of positions, which bounds max_length).

        Raises PromptError if an answer is not one token in place, or the fixed text leaves no room.
        """
        template = self.template
        if template == "auto":
            template = _render_frame(self, tokenizer)
        elif isinstance(template, str):
            template = _with_bos(template, tokenizer)
        return BoundPrompt(replace(self, template=template), tokenizer, max_positions)


@dataclass
class BoundPrompt:
    """A prompt whose template is resolved for one tokenizer. `prompt` is what gets saved with a checkpoint."""

    prompt: Prompt
    tokenizer: Any
    max_positions: int | None = None
    segments: list[str] = field(init=False)
    answer_ids: tuple[int, int] = field(init=False)  # (not relevant, relevant)

    def __post_init__(self) -> None:
        template = self.prompt.template
        self.segments = list(template) if isinstance(template, tuple) else [s for s in _split(template) if s]
        self._open, self._close = _bounds(self.tokenizer)
        self._document_at = next(i for i, s in enumerate(self.segments) if "{document}" in s)
        self._query_at = next(i for i, s in enumerate(self.segments) if "{query}" in s)
        self.repeats = sum(s.count("{query}") for s in self.segments)
        self._literal = {i: self._tokens(s) for i, s in enumerate(self.segments) if not SLOT.search(s)}
        self._fixed = sum(len(ids) for ids in self._literal.values())
        self._max = self._content_room()
        self.answer_ids = tuple(self._answer_id(answer) for answer in self.prompt.answers)
        if self.answer_ids[0] == self.answer_ids[1]:
            raise PromptError(f"this tokenizer has one token for both answers {self.prompt.answers}; choose others (key 'answers')")

    def encode(self, query: str, document: str, instruction: str | None = None) -> Encoded:
        """Ids of one prompt. `instruction` None means the prompt's default, "" none at all."""
        return self.encode_many(query, [document], instruction)[0]

    def encode_many(self, query: str, documents: list[str], instruction: str | None = None) -> list[Encoded]:
        """Ids of one query with each document; the query's part is tokenised once."""
        head, query_cut, used, limit = self._head(query, instruction)
        tail, again = self._tail(query, limit)
        room = self._max - used - again
        pieces = self._batch([self.segments[self._document_at].replace("{document}", d) for d in documents])
        out = []
        for piece in pieces:
            kept = piece[:room]
            ids = head + kept + tail
            out.append(Encoded(ids, len(head), len(head) + len(kept), len(piece) - len(kept), query_cut))
        return out

    def render(self, query: str, document: str, instruction: str | None = None) -> str:
        """The prompt as text, nothing cut."""
        values = {"query": query, "document": document, "instruction": self._instruction(instruction)}
        return "".join(SLOT.sub(lambda m: values[m.group(1)], s) for s in self.segments)

    def chat_template(self) -> str:
        """A Jinja chat template for messages of roles system (an instruction), query, document: this prompt as other libraries
        read it (sentence-transformers maps a pair to those roles)."""
        pick = (
            "{{%- set ns = namespace(system=none, query='', document='') -%}}"
            "{{%- for m in messages -%}}{{%- set c = m['content'] if m['content'] is string else m['content'][0]['text'] -%}}"
            "{{%- if m['role'] == 'system' -%}}{{%- set ns.system = c -%}}{{%- elif m['role'] == 'document' -%}}"
            "{{%- set ns.document = c -%}}{{%- else -%}}{{%- set ns.query = c -%}}{{%- endif -%}}{{%- endfor -%}}"
        ).format()
        before, after = self._instruction_frame()
        default = self._instruction(None)
        slots = {
            "query": "{{ ns.query }}",
            "document": "{{ ns.document }}",
            "instruction": "{%- if ns.system -%}{{ " + _quoted(before) + " + ns.system + " + _quoted(after)
            + " }}{%- else -%}{{ " + _quoted(default) + " }}{%- endif -%}",
        }
        out = []
        for segment in self.segments:
            for part in _split(segment):
                found = SLOT.fullmatch(part)
                out.append(slots[found.group(1)] if found else "{{ " + _quoted(part) + " }}")
        return pick + "".join(out)

    @property
    def longest(self) -> int:
        """The longest prompt in tokens, template included."""
        whole = self.prompt.max_length
        if self.prompt.lengths == "content":
            whole += self._fixed - len(self._separator())
        return min(whole, self.max_positions or whole)

    def _content_room(self) -> int:
        """Tokens that instruction, query and document may take together."""
        room = self.longest - self._fixed
        if room < 8:
            raise PromptError(
                f"max_length {self.prompt.max_length} leaves {room} tokens beside the prompt's own {self._fixed}; raise max_length"
            )
        return room

    def _separator(self) -> list[int]:
        """Fixed ids between query and document, which count as content in the released models' rule."""
        return [t for i in range(self._query_at + 1, self._document_at) for t in self._literal.get(i, [])]

    def _head(self, query: str, instruction: str | None) -> tuple[list[int], int, int, int]:
        """Ids before the document, tokens cut from the query, tokens of content used, the query's limit."""
        head, used, cut, limit = [], 0, 0, 0
        for i in range(self._document_at):
            if i in self._literal:
                head += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, instruction)
            if "{query}" in self.segments[i]:
                limit = self._query_limit(used)
                cut = max(0, len(ids) - limit)
                ids = ids[:limit]
            elif used + len(ids) > self._max - 8:
                raise PromptError(
                    f"the instruction takes {len(ids)} tokens and leaves no room in max_length {self.prompt.max_length}; "
                    "shorten it or raise max_length"
                )
            head += ids
            used += len(ids)
        return head, cut, used, limit

    def _tail(self, query: str, limit: int) -> tuple[list[int], int]:
        """Ids after the document, and how many of them repeat the query, which is capped as in the head."""
        tail, again = [], 0
        for i in range(self._document_at + 1, len(self.segments)):
            if i in self._literal:
                tail += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, None)[:limit]
            tail += ids
            again += len(ids)
        return tail, again

    def _query_limit(self, used: int) -> int:
        """Most tokens of one occurrence of the query, with `used` taken by the instruction; all occurrences share `query_share`."""
        content = self.prompt.lengths == "content"
        # The released models' rule counts the separator, and caps instruction and query as one piece.
        whole = self._max + len(self._separator()) if content else self.prompt.max_length
        cap = int(whole * self.prompt.query_share) // self.repeats
        return cap if content else max(1, min(cap, (self._max - used) // (2 * self.repeats)))

    def _fill(self, segment: str, query: str, instruction: str | None) -> list[int]:
        """Ids of a segment with slots. The instruction's own frame may hold special tokens; what users wrote may not."""
        if segment == "{instruction}":
            value = self.prompt.instruction if instruction is None else instruction
            before, after = self._instruction_frame()
            return self._tokens(before) + self._batch([value])[0] + self._tokens(after) if value else []
        values = {"query": query, "instruction": self._instruction(instruction)}
        return self._batch([SLOT.sub(lambda m: values[m.group(1)], segment)])[0]

    def _instruction(self, instruction: str | None) -> str:
        value = self.prompt.instruction if instruction is None else instruction
        before, after = self._instruction_frame()
        return before + value + after if value else ""

    def _instruction_frame(self) -> tuple[str, str]:
        text = self.prompt.instruction_format.replace("{open}", self._open).replace("{close}", self._close)
        before, _, after = text.partition("{instruction}")
        return before, after

    def _answer_id(self, answer: str) -> int:
        """The answer's one token after the prompt's last segment. Raises PromptError if it is not one."""
        tail = self.segments[-1]
        if SLOT.search(tail):
            tail = ""
        before, both = self._tokens(tail), self._tokens(tail + answer)
        got = both[len(before):] if both[: len(before)] == before else self._tokens(answer)
        if len(got) != 1:
            shown = self.tokenizer.convert_ids_to_tokens(got)
            raise PromptError(
                f"answer {answer!r} is {len(got)} tokens {shown} under this tokenizer; choose answers that are one token each "
                f"after {tail[-20:]!r} (prompt key 'answers', for instance [\"0\", \"1\"] or [\"no\", \"yes\"])"
            )
        return got[0]

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def _batch(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        options = {"split_special_tokens": True} if self.prompt.split_special else {}
        return self.tokenizer(texts, add_special_tokens=False, verbose=False, **options)["input_ids"]


def _split(template: str) -> list[str]:
    """Literals and slots in order: "a{query}b" -> ["a", "{query}", "b"]."""
    parts, last = [], 0
    for found in SLOT.finditer(template):
        parts += [template[last : found.start()], found.group(0)]
        last = found.end()
    return [p for p in parts + [template[last:]] if p]


def _bounds(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that bound texts, or a blank and nothing where the tokenizer lacks them."""
    known = tokenizer.get_added_vocab()
    return ("<|im_start|>", "<|im_end|>") if {"<|im_start|>", "<|im_end|>"} <= set(known) else (" ", "")


def _render_frame(prompt: Prompt, tokenizer: Any) -> str:
    """The literal template: system and user turns in the tokenizer's own chat form, or as plain text."""
    open_, close = _bounds(tokenizer)
    user = prompt.user.replace("{open}", open_).replace("{close}", close)
    if not own_chat(tokenizer):
        return _with_bos(f"{prompt.system}\n\n{user}" if prompt.system else user, tokenizer)
    marked = SLOT.sub(lambda m: SENTINEL.format(m.group(1)), user)
    text = _chat(tokenizer, prompt.system, marked)
    slots = SLOT.findall(user)
    for slot in dict.fromkeys(slots):
        if text.count(SENTINEL.format(slot)) != slots.count(slot):
            raise PromptError(f"the tokenizer's chat template does not show the {slot} exactly once; give the prompt a 'template'")
        text = text.replace(SENTINEL.format(slot), "{" + slot + "}")
    # A template that opens a thought waits for one: a binary prompt closes it at once.
    return text.rstrip("\n") + "\n\n</think>\n\n" if text.rstrip().endswith("<think>") else text


def own_chat(tokenizer: Any) -> str:
    """The tokenizer's own chat template, "" where it has none; what a saved checkpoint put before it is left out."""
    template = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, dict):
        template = template.get("default") or ""
    _, ours, own = template.rpartition(CHAT_MARK)
    return own.removesuffix(CHAT_END) + "\n" if ours and own else own  # Jinja drops a last newline, so saving left it out


def _quoted(text: str) -> str:
    """Text as a Jinja string. Escaped as ASCII, a character beyond 16 bits would come back as two halves."""
    return json.dumps(text, ensure_ascii=False)


def _chat(tokenizer: Any, system: str, user: str) -> str:
    """Render by the chat template; templates without a system role get its text at the head of the user's turn."""
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.apply_chat_template([*turns, {"role": "user", "content": user}], **options)
        if not system or system.strip() in text:
            return text
    except Exception as error:  # templates raise what they like
        if not system:
            raise PromptError(f"the tokenizer's chat template fails: {error}; give the prompt a 'template'") from error
    return tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)


def _with_bos(text: str, tokenizer: Any) -> str:
    """Text led by the BOS token where the tokenizer adds one by itself and the text lacks it."""
    bos = getattr(tokenizer, "bos_token", None)
    adds = bos and tokenizer("", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
    return bos + text if adds and not text.startswith(bos) else text


def _read_yaml(path: Path) -> dict:
    import yaml

    if not path.is_file():
        raise PromptError(f"{path}: no such prompt file")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise PromptError(f"{path}: expected a mapping of prompt settings")
    return value


_MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, "
    "carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not "
    "relevant, 1 for relevant).\nRelevance:"
)
PRESETS: dict[str, Prompt] = {
    "prorank": Prompt(),
    # The query comes again after the document, where a causal model can read it in the document's light (arXiv 2402.15449 calls
    # such repeats echoes). Small models learn to rank far sooner from it, see docs/experiments.md.
    "echo": Prompt(
        name="echo",
        user="{instruction}Query:\n{query}{close}\nDocument:\n{document}{close}\nQuery:\n{query}{close}\nRelevant?",
    ),
    # Ids of mixedbread-ai/mxbai-rerank-{base,large}-v2 as their package joins them (mxbai-rerank 0.1.6).
    "mxbai": Prompt(
        name="mxbai",
        system="",
        instruction_format="instruction: {instruction}\n",
        template=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "{instruction}query: {query}",
            "\n",
            "document: {document}",
            "\n",
            _MXBAI_TASK,
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        max_length=8192,
        query_share=0.75,
        lengths="content",
        split_special=False,
    ),
}
