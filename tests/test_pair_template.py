"""Prompts baked into tokenizers: plain pairs get the Prompt's ids, or the Prompt is refused.

The witness is `Prompt.bind(...).encode`, which knows nothing of pair templates.
"""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from prorank.errors import PromptError
from prorank.export.classifier import padding_token
from prorank.export.pair_template import baked_tokenizer, pair_template, plain_tokenizer
from prorank.prompts.prompt import Prompt
from tests.test_prompt import SPECIAL, fast, texts
from tests.tiny import STYLES, byte_tokenizer

TOKENIZERS = {style: byte_tokenizer(style) for style in STYLES}
PROMPTS = {
    "prorank": Prompt.preset("prorank", max_length=4096),
    "instruction": Prompt.preset("prorank", max_length=4096, instruction="find 🦊 scenes"),
    "echo": Prompt.preset("echo", max_length=4096),
    "document-first": Prompt.preset("document-first", max_length=4096),
    "rerank-r0": Prompt.preset("rerank-r0", max_length=4096),
    "literal": Prompt(name="literal", template="{query} ## {document} =>", max_length=4096),
    "mxbai": Prompt.preset("mxbai", instruction="find scenes"),
}
EVERYWHERE = ("prorank", "echo", "document-first")
CASES = [(style, name) for style in STYLES for name in EVERYWHERE] + [("qwen2", name) for name in PROMPTS]
BOUND = {(style, name): PROMPTS[name].bind(TOKENIZERS[style]).direct() for style, name in CASES}
BAKED = {}


def tokenizer_of(case, folder=None):
    """The baked tokenizer of a case, saved and read again."""
    if case not in BAKED:
        tokenizer = baked_tokenizer(BOUND[case], padding_token(BOUND[case]))
        tokenizer.save_pretrained(folder)
        BAKED[case] = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    return BAKED[case]


@pytest.mark.parametrize("case", dict.fromkeys(CASES), ids="-".join)
def test_plain_pairs_have_the_prompts_ids(case, tmp_path):
    tokenizer, raw = tokenizer_of(case, tmp_path)
    led = case[1] == "mxbai"  # a blank is put before its texts, and the normalizer leaves empty ones alone

    @fast
    @given(query=texts.filter(bool), document=texts.filter(bool) if led else texts)
    @example(query="e", document="\u0301" if led else "")
    @example(query="garden 1", document="1\n")
    def same(query, document):
        want = BOUND[case].encode(query, document)
        assert tokenizer([query], [document])["input_ids"] == [want.ids]
        assert raw.encode(query, document).ids == want.ids
        if document:  # transformers takes an empty one for none unless it stands in a list
            assert tokenizer(query, document)["input_ids"] == want.ids
            assert tokenizer(query, document, truncation="only_second")["input_ids"] == want.ids

    same()


@pytest.mark.parametrize("style, more", [("smollm", 70), ("qwen2", 150), ("plain", 90)])
def test_the_document_alone_is_cut_and_as_the_prompt_cuts_it(style, more):
    fixed = len(BOUND[style, "prorank"].encode("", "").ids)
    encoder = Prompt.preset("prorank", max_length=fixed + more).bind(TOKENIZERS[style])
    tokenizer = baked_tokenizer(encoder, padding_token(encoder))
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())

    @fast
    @given(query=texts.filter(bool), document=texts, copies=st.integers(0, 60))
    def same(query, document, copies):
        want = encoder.encode(query, document * copies)
        assume(not want.query_cut)  # a pair template leaves queries whole
        assert tokenizer([query], [document * copies], truncation="only_second")["input_ids"] == [want.ids]
        assert raw.encode(query, document * copies).ids == want.ids

    same()


def test_a_repeated_query_leaves_the_pair_within_its_length():
    encoder = Prompt.preset("echo", max_length=256).bind(TOKENIZERS["qwen2"])
    tokenizer = baked_tokenizer(encoder, padding_token(encoder))
    query = "garden " * 8
    got = tokenizer(query, "river " * 300, truncation="only_second")["input_ids"]
    want = encoder.encode(query, "river " * 300)
    assert not want.query_cut and want.document_cut and len(want.ids) == 256 >= len(got)
    tail = len(want.ids) - want.document_end
    assert got[-tail:] == want.ids[-tail:] and got[:-tail] == want.ids[: len(got) - tail]


@pytest.mark.parametrize("case", [("smollm", "prorank"), ("qwen2", "echo"), ("qwen2", "rerank-r0")], ids="-".join)
def test_special_tokens_in_texts_stay_text(case, tmp_path):
    tokenizer, _ = tokenizer_of(case, tmp_path)
    document = "".join(SPECIAL)
    assert tokenizer("a <|im_end|>", document)["input_ids"] == BOUND[case].encode("a <|im_end|>", document).ids


def test_single_texts_get_nothing_around_them(tmp_path):
    tokenizer, _ = tokenizer_of(("plain", "prorank"), tmp_path)
    assert tokenizer("garden")["input_ids"] == TOKENIZERS["plain"]("garden", add_special_tokens=False)["input_ids"]


def test_a_batch_is_padded_on_the_right(tmp_path):
    case = ("smollm", "prorank")
    tokenizer, _ = tokenizer_of(case, tmp_path)
    batch = tokenizer(["a", "a"], ["b", "river " * 9], padding=True)
    want = [BOUND[case].encode("a", document).ids for document in ("b", "river " * 9)]
    short = len(want[0])
    assert batch["input_ids"][0][:short] == want[0] and batch["input_ids"][1] == want[1]
    assert set(batch["input_ids"][0][short:]) == {tokenizer.pad_token_id} and sum(batch["attention_mask"][0]) == short
    assert set(batch) == {"input_ids", "attention_mask"}


REFUSED = {
    "behind": (Prompt.preset("qwen3-reranker"), "tokens of its words merge with those of the {query} before them; use"),
    "mixed": (Prompt(template=("q: {query}", "\n{document}", "?")), "a space precedes one text and not the other"),
    "joint": (Prompt(template=("wh{query}", "{document}", "?")), "its words share tokens with texts such as"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_prompts_that_do_not_fit_are_refused_with_the_remedy(case):
    prompt, message = REFUSED[case]
    encoder = prompt.bind(TOKENIZERS["qwen3"])
    with pytest.raises(PromptError) as error:
        baked_tokenizer(encoder, padding_token(encoder))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("style, name", [("qwen3", "qwen3-reranker"), ("plain", "prorank"), ("qwen2", "mxbai")])
def test_rendered_texts_get_the_prompts_ids(style, name, tmp_path):
    encoder = Prompt.preset(name, answers=("no", "yes")).bind(TOKENIZERS[style])
    plain_tokenizer(encoder, padding_token(encoder)).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "query", "content": "what is École?"}, {"role": "document", "content": "École, a garden"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    want = TOKENIZERS[style](encoder.render("what is École?", "École, a garden"), add_special_tokens=False)["input_ids"]
    assert tokenizer(text)["input_ids"] == want
    if style != "plain":  # where special tokens stand at the bounds, the joined ids are those of the text
        assert want == encoder.encode("what is École?", "École, a garden").ids
        turns[1]["content"] = "a <|im_end|> b<|im_end|>"  # text, unless the prompt takes it for a token
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        assert tokenizer(text)["input_ids"] == encoder.encode("what is École?", turns[1]["content"]).ids


def test_the_token_to_pad_with_is_not_the_prompts_last():
    encoder = Prompt(name="end", template="{query}\n{document}<|im_end|>").bind(TOKENIZERS["smollm"])
    assert TOKENIZERS["smollm"].pad_token == "<|im_end|>" and padding_token(encoder) == "<|im_start|>"
    assert padding_token(BOUND["smollm", "prorank"]) == "<|im_end|>"


def test_parts_are_the_segments_in_order():
    parts = pair_template(BOUND["qwen2", "echo"]).parts
    assert [part for part in parts if isinstance(part, str)] == ["A", "B", "A"] and all(parts)
