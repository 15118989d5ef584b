"""Reading: byte order marks, other encodings and formats, damage, pipes and stdin."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.formats import read_groups, read_qrels, read_run
from prorank.data.rerank_r0_logs import convert
from prorank.errors import ConfigError, DataError, PromptError
from prorank.prompts.prompt import Prompt
from prorank.rank.rerank_files import read_documents
from prorank.utils.config_files import read_values
from prorank.utils.files import numbered_lines

BOM = codecs.BOM_UTF8
LISTS = '{"query": "q", "pos": ["é"], "neg": ["b"]}\n'
# How each kind of file is read, and a good one of its kind.
READERS = {
    "documents": (read_documents, '{"text": "é", "id": "1"}\n{"text": "b", "id": "2"}\n'),
    "plain text": (read_documents, "é\nb\n"),
    "lists": (read_groups, LISTS * 2),
    "triples": (read_groups, "q\té\tb\n"),
    "qrels": (read_qrels, "q1 0 d1 1\nq1 0 d2 0\n"),
    "BEIR qrels": (read_qrels, "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
    "run": (read_run, "q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n"),
    "settings": (read_values, "stage: score\nbase: é\n"),
    "prompt": (Prompt.of, "system: é\n"),
}


SUFFIXES = {"documents": ".jsonl", "lists": ".jsonl", "triples": ".tsv", "settings": ".yaml", "prompt": ".yaml"}  # others: none


def written(folder: Path, kind: str, content: bytes) -> str:
    path = folder / f"in{SUFFIXES.get(kind, '')}"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_changes_nothing(kind, zipped, tmp_path):
    """One mark, two, and one at the head of every line, as `cat` leaves them."""
    reader, text = READERS[kind]
    content = text.encode()
    wanted = reader(written(tmp_path, kind, content))
    for marked in (BOM + content, BOM + BOM + content, BOM + content.replace(b"\n", b"\n" + BOM).removesuffix(BOM)):
        assert reader(written(tmp_path, kind, gzip.compress(marked) if zipped else marked)) == wanted


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("kind", READERS)
def test_other_encodings_are_named(kind, encoding, zipped, tmp_path):
    """With a byte order mark or without."""
    reader, text = READERS[kind]
    content = ("\ufeff" * encoding.endswith("6") + text).encode(encoding)
    path = written(tmp_path, kind, gzip.compress(content) if zipped else content)
    error = {"settings": ConfigError, "prompt": PromptError}.get(kind, DataError)
    with pytest.raises(error, match=rf"^{path}: has the encoding {encoding[:6].upper()}; convert it: iconv "):
        reader(path)


def test_a_zero_byte_in_text_is_no_other_encoding(tmp_path):
    for text in ("a\0b", "\0", "a\0", "\0\0\0"):
        assert read_documents(written(tmp_path, "text", f"{text}\nb\n".encode()))[0] == text


def stdin_of(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="cp1252"))


@pytest.mark.parametrize("content", [BOM + b"\xc3\xa9\nb", gzip.compress(BOM + b"\xc3\xa9\nb", mtime=0), b"\n\xc3\xa9\r\nb\r\n"])
def test_stdin_is_read_like_files(content, monkeypatch):
    """Marks and gzip on stdin, whose own encoding may be another."""
    stdin_of(monkeypatch, content)
    assert read_documents("-") == ["é", "b"]


def test_stdin_names_encoding_and_damage(monkeypatch):
    stdin_of(monkeypatch, "a".encode("utf-16"))
    with pytest.raises(DataError, match="^<stdin>: has the encoding UTF-16"):
        read_documents("-")
    stdin_of(monkeypatch, gzip.compress(b"a\n" * 9)[:-9])
    with pytest.raises(DataError, match="^<stdin>:[0-9]+: damaged or unreadable file"):
        read_documents("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="^<stdin>: is closed"):
        read_documents("-")


@pytest.mark.parametrize("kind", READERS)
def test_bytes_that_are_not_utf8_are_named_with_their_line(kind, tmp_path):
    """The exact line, although files are decoded in blocks."""
    reader, text = READERS[kind]
    path = written(tmp_path, kind, text.encode() + b"# \xff\n")
    with pytest.raises((DataError, ConfigError, PromptError), match=rf"^{path}:{text.count(chr(10)) + 1}: not UTF-8 text"):
        reader(path)


# Whole files that are no text, and how they are named by their content alone.
def archive(write) -> bytes:
    held = io.BytesIO()
    write(held)
    return held.getvalue()


def tar_of(held: io.BytesIO) -> None:
    with tarfile.open(fileobj=held, mode="w") as made:
        made.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())


def zip_of(held: io.BytesIO) -> None:
    with zipfile.ZipFile(held, "w") as made:
        made.writestr("a.txt", "text")


PACKED = {
    "bzip2": bz2.compress(b"text\n"),
    "xz": lzma.compress(b"text\n"),
    "zip": archive(zip_of),
    "tar": archive(tar_of),
    "Zstandard": b"\x28\xb5\x2f\xfd\x04\x00",
    "Parquet": b"PAR1\x15\x04",
}


@pytest.mark.parametrize("kind", PACKED)
def test_other_formats_are_named(kind, tmp_path):
    """Told by content, inside of gzip too."""
    for content in (PACKED[kind], gzip.compress(PACKED[kind])):
        (tmp_path / "docs").write_bytes(content)
        with pytest.raises(DataError, match=f"docs: has the format {kind}, which is not supported"):
            read_documents(str(tmp_path / "docs"))


@pytest.mark.parametrize("name", ["d.bz2", "d.XZ", "d.zip", "d.tar.gz", "d.tgz", "d.zst", "d.7z", "d.parquet"])
def test_other_formats_are_told_by_name(name, tmp_path):
    """A file with such a name is not read as text, whatever its content."""
    (tmp_path / name).write_text("text\n")
    with pytest.raises(DataError, match=f"{name}: has the format"):
        read_documents(str(tmp_path / name))


def test_gzip_twice_is_named(tmp_path):
    (tmp_path / "d.gz").write_bytes(gzip.compress(gzip.compress(b"text\n")))
    with pytest.raises(DataError, match="d.gz: is compressed with gzip twice"):
        read_documents(str(tmp_path / "d.gz"))


LONG = gzip.compress("\n".join(f"document {n} {n * 7919 % 1000}" for n in range(999)).encode(), mtime=0)


@given(st.integers(2, len(LONG) - 1), st.integers(1, 255))
def test_damaged_gzip_is_an_error(at, flip):
    """Cut at any byte, or any byte of content or checksum changed."""
    whole = [line for _, line in lines_of(LONG)]
    with pytest.raises(DataError, match="damaged or unreadable"):
        lines_of(LONG[:at])
    try:
        assert [line for _, line in lines_of(LONG[:at] + bytes([LONG[at] ^ flip]) + LONG[at + 1 :])] == whole
    except DataError as error:
        assert "damaged or unreadable" in str(error)


def lines_of(content: bytes) -> list[tuple[int, str]]:
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(content))
    try:
        return list(numbered_lines("-"))
    finally:
        sys.stdin = before


def test_deep_json_is_an_error(tmp_path):
    deep = "[" * 200_000
    for text, reader in ((f'{{"text": {deep}', read_documents), (f'{{"query": {deep}', read_groups)):
        (tmp_path / "d.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"d\.jsonl:1: "):
            reader(str(tmp_path / "d.jsonl"))
    (tmp_path / "c.yaml").write_text("a: " + deep)
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML: "):
        read_values(tmp_path / "c.yaml")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff\0"))), st.integers(0, 30))
def test_lines_come_back(lines, block):
    """The result does not depend on the chunks of a pipe, nor on gzip."""
    content = "\n".join(lines).encode()
    wanted = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    for data in (content, gzip.compress(content)):
        reading, writing = os.pipe()

        def feed(data=data, writing=writing):
            with open(writing, "wb", buffering=0) as pipe:
                for at in range(0, len(data), block + 1):
                    pipe.write(data[at : at + block + 1])

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert list(numbered_lines(f"/dev/fd/{reading}")) == wanted
        feeder.join()
        os.close(reading)


def test_a_log_through_a_pipe_is_converted_as_from_a_file(tmp_path):
    """A verb that goes through its input twice."""
    line = '{"query": "q", "response": "a", "response_thinking": "t", "rejected_response": [{"document": "b", "thinking": "u"}]}\n'
    (tmp_path / "log.jsonl").write_text(line)
    with piped(line.encode()) as pipe:
        convert(pipe, tmp_path / "piped.jsonl")
    convert(tmp_path / "log.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "piped.jsonl").read_text() == (tmp_path / "out.jsonl").read_text() != ""


@pytest.mark.parametrize("kind", READERS)
def test_pipes_are_read(kind, tmp_path):
    """Process substitution, and a named pipe, which can be opened once only."""
    reader, text = READERS[kind]
    if kind != "triples":  # told by their name
        with piped(text.encode()) as pipe:
            assert reader(pipe) == reader(written(tmp_path, kind, text.encode()))
    fifo = tmp_path / f"fifo{'.tsv' * (kind == 'triples')}{'.yaml' * (kind == 'prompt')}"
    os.mkfifo(fifo)
    feeder = threading.Thread(target=fifo.write_bytes, args=(text.encode(),))
    feeder.start()
    assert reader(str(fifo)) == reader(written(tmp_path, kind, text.encode()))
    feeder.join()


@contextlib.contextmanager
def piped(content: bytes):
    """The path of a pipe from which `content` comes, as a shell gives it for <(…)."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    yield f"/dev/fd/{reading}"
    os.close(reading)


def test_missing_files_and_folders_are_named(tmp_path):
    for name, wanted in (("none", "no such file"), (".", "is a folder, expected a file"), ("a\0b", "cannot be read")):
        with pytest.raises(DataError, match=wanted):
            list(numbered_lines(tmp_path / name))
    (tmp_path / "f").touch()
    with pytest.raises(DataError, match="f/g: cannot be read .Not a directory."):
        list(numbered_lines(tmp_path / "f" / "g"))
