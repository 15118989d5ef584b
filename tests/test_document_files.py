"""The same documents in every form a file may have; what is no such form is refused, never ranked line by line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.errors import DataError
from prorank.rank.document_files import read_documents

AB = [{"text": "a"}, {"text": "b"}]
NAMES = ("docs", "docs.txt", "docs.json", "docs.jsonl", "-")


def read(folder: Path, name: str, text: str | bytes, monkeypatch=None) -> list:
    """Documents of a file with this content, or of standard input."""
    content = text if isinstance(text, bytes) else text.encode()
    if name == "-":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return read_documents("-")
    (folder / name).write_bytes(content)
    return read_documents(str(folder / name))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("text", "wanted"), [
    ('{"text": "a"}\n\n{"text": "b"}\n', AB),
    ('{"text": "a"}\r\n{"text": "b"}', AB),
    ('[{"text": "a"}, {"text": "b"}]', AB),
    ('[\n  {\n    "text": "a"\n  },\n\n  {"text": "b"}\n]\n', AB),
    ('{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', AB),
    ('{\n  "text": "a"\n}\n', AB[:1]),
    ('"a"\n"b\\nc"\n', ["a", "b\nc"]),
    ('["a", "b"]', ["a", "b"]),
    ('["a", {"id": 7, "title": null, "text": ""}]', ["a", {"id": 7, "title": None, "text": ""}]),
])  # fmt: skip
def test_json_documents(tmp_path, monkeypatch, name, text, wanted, mark):
    assert read(tmp_path, name, mark + text, monkeypatch) == wanted


@pytest.mark.parametrize(("name", "text", "wanted"), [
    ("d.csv", "id,title,text\n1,T,a\n", [{"id": "1", "title": "T", "text": "a"}]),
    ("d.csv", "\ufeffTEXT;Id;url\na;1;u\n", [{"text": "a", "id": "1", "url": "u"}]),
    ("d.tsv", "_id\ttext\n1\ta\n", [{"_id": "1", "text": "a"}]),
    ("d.csv", 'text\n"a, b\nc"\n""\nd, e; f\n', ["a, b\nc", "", "d, e; f"]),
    ("D.CSV", ",text\n0,a\n", [{"text": "a"}]),
    ("-", "id,title,text\n1,T,a\n", [{"id": "1", "title": "T", "text": "a"}]),
    ("-", "id\ttext\n1\ta\n", [{"id": "1", "text": "a"}]),
    ("-", "id, title, text\n1, T, a\n", [{"id": "1", "title": " T", "text": " a"}]),
    ("-", "text,url (source!)\na,u\n", [{"text": "a", "url (source!)": "u"}]),
    ("d.txt", '"id";"text"\n"1";"a; b"\n', [{"id": "1", "text": "a; b"}]),
])  # fmt: skip
def test_tables(tmp_path, monkeypatch, name, text, wanted):
    assert read(tmp_path, name, text, monkeypatch) == wanted


@pytest.mark.parametrize("text", [
    "[1] Smith et al.\n[2] Jones", "{foo} bar\n{{stub}}", '"Hello," she said.\nNo.', "42\n3.5\ntrue", "[[Link]] text",
    '"Yes" or "no"\nb',
    "first, second, third\nand so on", "Title, text and abstract\nand so on",
    "Query, said the fox\nNo", "it's 5\" wide; or 6\"\nno", "a\tb\nc",
])  # fmt: skip
def test_text_stays_text(tmp_path, text):
    assert read(tmp_path, "d.txt", text) == text.split("\n")


@pytest.mark.parametrize("name", ["d.txt", "d", "-"])
@pytest.mark.parametrize(("text", "line", "message"), [
    ('plain\n{"text": "a"}\n', 2, "looks like JSON, but line 1 is text"),
    ('plain\n"quoted"\n', 2, "looks like JSON, but line 1 is text"),
    ('plain\n[\n"a"\n]\n', 2, "looks like JSON, but line 1 is text"),
    ('{"text": "a"}\nplain\n', 2, "not valid JSON .* line 1 is JSON, so all lines must be"),
    ('"quoted"\nplain\n', 2, "not valid JSON .* line 1 is JSON, so all lines must be"),
    ('"a",\n"b"\n', 1, "not valid JSON"),
    ('["a",\n"b",]', 2, "not valid JSON"),
    ('["a"\n', 1, "not valid JSON"),
    ("['a', 'b']\n", 1, "not valid JSON"),
    ("{'text': 'a'}\n", 1, "not valid JSON"),
    ('{"text": "a"} {"text": "b"}\n', 1, "not valid JSON .Extra data"),
    ('{"text": "a", "n": NaN}\n', 1, "not valid JSON .NaN is no JSON"),
    ("[" * 100_000, 1, "nested too deeply"),
    ('\n{"text": "a", "x": ' + "[" * 100_000, 2, "nested too deeply"),
    ("[1, 2]", 1, 'document 1 of the array: expected an object with "text" or a string, got 1'),
    ('[["a"]]', 1, "document 1 of the array: expected an object"),
    ('["a"]\n["b"]\n', 1, "expected an object"),
    ('{"id": 1, "contents": "a"}', 1, "found 'id', 'contents'; rename 'contents' to \"text\""),
    ('{"body": "a"}', 1, "rename 'body' to \"text\""),
    ('{"passage": "a"}', 1, "rename 'passage' to \"text\""),
    ('["a", {"_text": "a"}]', 1, "document 2 of the array: .*rename '_text' to \"text\""),
    ('{"Text": "a"}', 1, "rename 'Text' to \"text\""),
    ('{"documents": ["a"]}', 1, "found 'documents'"),
    ('{"text": null, "body": "a"}', 1, 'expected a JSON object with a string "text", got null'),
    ("{}", 1, "found no keys"),
    ('{"text": "\\ud800"}', 1, "half of a surrogate pair"),
    ('"\\udc80"', 1, "half of a surrogate pair"),
    ('{"text": "a", "id": "\\ud800"}', 1, "half of a surrogate pair"),
    ("text\na\nb\n", 1, "'text' may be a document or the header of a table; name the file .csv"),
    ('"text"\n"a"\n', 1, "may be a document or the header"),
    ("id,body\n1,a\n", 1, "no column text; found 'id', 'body'; expected a header such as id,title,text"),
    ("query\tdocument\tlabel\nq\td\t1\n", 1, "no column text; found 'query', 'document', 'label'"),
    ('1,"a, b"\n2,"c"\n', 1, "looks like a row of a table; add a header row"),
    ('"1","a"\n', 1, "looks like a row of a table; add a header row"),
    ("1\tsome text\n2\tmore\n", 1, "looks like a row of a table; add a header row"),
    ('{"text": "a", "title": 7}', 1, '"title" must be a string, got 7'),
    ('{"text": "a", "title": ["b"]}', 1, '"title" must be a string, got'),
    ("id,text\n1,a\n2,b,c\n", 3, "3 fields, but the header has 2"),
])  # fmt: skip
def test_what_is_ambiguous_or_broken_is_refused(tmp_path, monkeypatch, name, text, line, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, name, text, monkeypatch)
    assert f"{'<stdin>' if name == '-' else name}:{line}: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("d.jsonl", "plain\n", "d.jsonl:1: not valid JSON"),
    ("d.json", "42\n", 'd.json:1: expected an object with "text" or a string, got 42'),
    ("d.csv", "a,b\n1,2\n", "d.csv:1: no column text; found 'a', 'b'"),
    ("d.tsv", "1\tsome text\n", "d.tsv:1: no column text; found '1', 'some text'"),
    ("d.csv", "text\n", "d.csv: contains no documents"),
    ("d.csv", "text,text\na,b\n", "d.csv:1: the column 'text' occurs twice"),
    ("d.csv", 'id,text\n1,"a\n2,b\n', "d.csv:2: broken quoting"),
    ("d.txt", " \n\n", "d.txt: contains no documents"),
    ("d.csv", "", "d.csv: contains no documents"),
    ("d.json", "[]", "d.json: contains no documents"),
])  # fmt: skip
def test_the_name_of_a_file_binds(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, text)


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\ufeff\x00"), max_size=12)
TEXT = TEXT.filter(lambda text: not {"\t", "\n"} <= set(text))  # in a table with tabs such a field may look like rows
STRINGS = st.lists(TEXT, min_size=1, max_size=5)
LINES = st.lists(
    st.text(st.characters(categories=("L", "N", "Zs")), max_size=12).map(lambda text: f"a {text} b"), min_size=1, max_size=5
)


def table(rows: list[list[str]], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()


@settings(deadline=None, max_examples=60)
@given(texts=STRINGS, indent=st.sampled_from((None, 2)), ascii_=st.booleans())
def test_any_documents_come_back_from_json_and_tables(tmp_path_factory, texts, indent, ascii_):
    folder = tmp_path_factory.mktemp("d")
    objects = [{"id": str(place), "text": text} for place, text in enumerate(texts)]
    how = {"indent": indent, "ensure_ascii": ascii_}
    assert read(folder, "a.jsonl", "".join(json.dumps(text, ensure_ascii=ascii_) + "\n" for text in texts)) == texts
    assert read(folder, "a.json", json.dumps(texts, **how)) == texts
    assert read(folder, "o", json.dumps(objects, **how)) == objects
    assert read(folder, "o.jsonl.gz", gzip.compress("\n".join(json.dumps(one, **how) for one in objects).encode())) == objects
    for name, delimiter in (("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t")):
        assert read(folder, name, table([["text"], *([text] for text in texts)], delimiter)) == texts
        rows = [list(one.values()) for one in objects]
        assert read(folder, name, table([["id", "text"], *rows], delimiter)) == objects
        assert read(folder, "unnamed", table([["id", "text"], *rows], delimiter)) == objects


@settings(deadline=None, max_examples=60)
@given(lines=LINES, mark=st.sampled_from(("", "\ufeff")))
def test_text_lines_come_back(tmp_path_factory, lines, mark):
    assert read(tmp_path_factory.mktemp("d"), "d.txt", mark + "\n".join(lines)) == lines
