"""CSV and TSV are read by their header, labels with the rules of JSONL, and no table is taken for another form."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.data.tables import read_table
from prorank.errors import DataError

PAIRS = [Group("q", ("d1", "d2"), (2.0, 0.0))]
TRIPLE = [Group("q", ("a", "b"), (1.0, 0.0))]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("name", "text", "wanted"), [
    ("l.tsv", "query\tdocument\tlabel\nq\td1\t2\nq\td2\t0\n", PAIRS),
    ("l.csv", "query,document,label\nq,d1,2\nq,d2,0\n", PAIRS),
    ("l.csv", "\ufeffquery;document;label\r\nq;d1;2\r\nq;d2;0\r\n", PAIRS),
    ("l.csv", "query\tdocument\tlabel\nq\td1\t2\nq\td2\t0\n", PAIRS),
    ("l.tsv", "query,document,label\nq,d1,2\nq,d2,0\n", PAIRS),
    ("L.CSV", "\n\nLabel, Document ,QUERY\n2,d1,q\n\n0.0,d2,q\n", PAIRS),
    ("l.csv.gz", gzip.compress(b"query,document,label\nq,d1,2\nq,d2,0\n", mtime=0), PAIRS),
    ("l.csv", '"query","document","label"\n"q","d1","2e0"\n"q","d2"," 0 "\n', PAIRS),
    ("l.csv", "query,document,label\nq,d1,2", [Group("q", ("d1",), (2.0,))]),
    ("l.csv", 'query,document,label\nq,"a ""b"", c\nd;e\tf",1\n', [Group("q", ('a "b", c\nd;e\tf',), (1.0,))]),
    ("l.csv", "query,document,label\nq,,1\n", [Group("q", ("",), (1.0,))]),
    ("l.csv", "Query ID,query,Doc-Id,document,label\n7,q,0,d1,1\n", [Group("q", ("d1",), (1.0,), "7", ("0",))]),
    ("l.csv", "qid,query,docid,document,label\n,q,,d1,1\n", [Group("q", ("d1",), (1.0,))]),
    ("l.csv", f"query,document,label\nq,{'x' * 300_000},1\n", [Group("q", ("x" * 300_000,), (1.0,))]),
    ("t.tsv", "query\tpositive\tnegative\nq\ta\tb\n", TRIPLE),
    ("t.tsv", "Query\tPos\tNeg\nq\ta\tb\n", TRIPLE),
    ("t.csv", "anchor,positive,negative_1,negative_2\nq,a,b,\n", TRIPLE),
    ("t.tsv", "a query\tsome text\tother text\n", [Group("a query", ("some text", "other text"), (1.0, 0.0))]),
    ("t.tsv", 'what is "x"\t"a" b\t"c\n', [Group('what is "x"', ('"a" b', '"c'), (1.0, 0.0))]),
    ("t.tsv", "how many\t3 of 4\t7\nhow many\t3 of 4\tnone\n", [Group("how many", ("3 of 4", "7", "none"), (1.0, 0.0, 0.0))]),
])  # fmt: skip
def test_tables_are_read_by_their_header(tmp_path, name, text, wanted):
    assert read_groups(write(tmp_path / name, text)) == wanted


EXPECTED = "expected the columns query, document, label"


@pytest.mark.parametrize(("name", "text", "message"), [
    ("l.tsv", "question\tpassage\tscore\nq\ta\t1\n", "l.tsv:1: no column .*found 'question', 'passage', 'score'; " + EXPECTED),
    ("l.csv", "a,b,c\nq,a,1\n", "l.csv:1: no column .*found 'a', 'b', 'c'; " + EXPECTED),
    ("l.csv", "what is x,some text,1\n", "l.csv:1: no column .*found 'what is x', 'some text', '1'; " + EXPECTED),
    ("l.tsv", "frage\tantwort\tfalsch\nq\ta b\tc\n", "l.tsv:1: 'frage', 'antwort', 'falsch' look like a header; " + EXPECTED),
    ("l.tsv", "what is\tone text\t1\nwhat is\ttwo texts\t0\n", "l.tsv: the third column holds numbers; .* add the header row"),
    ("l.tsv", "query-id\tcorpus-id\tscore\n1\t2\t1\n", "l.tsv:1: no column .*found 'query-id', 'corpus-id', 'score'"),
    ("l.csv", "query,document,lable\nq,d,1\n", "l.csv:1: no column label; found 'query', 'document', 'lable'"),
    ("l.csv", "document,label\nd,1\n", "l.csv:1: no column query"),
    ("l.csv", "positive,negative\na,b\n", "l.csv:1: no column query"),
    ("l.csv", "query,positive,negative,label\nq,a,b,1\n", "l.csv:1: columns of pairs and of triples in one table"),
    ("l.csv", "query,document,label,Label\nq,d,1,0\n", "l.csv:1: the column 'label' occurs twice"),
    ("l.csv", "query,document,label\n", "l.csv: no rows below the header"),
    ("l.csv", " \n", "l.csv: the file is empty"),
    ("l.tsv", "", "l.tsv: the file is empty"),
    ("l.csv", "query,document,label\nq,d,1\n\nq,d\n", "l.csv:4: 2 fields, but the header has 3"),
    ("l.csv", "query,document,label\nq,a, b,1\n", "l.csv:2: 4 fields, but the header has 3; .* need quotes"),
    ("l.csv", 'query,document,label\nq,"a\nb",1\nq,"c" d,1\n', "l.csv:4: broken quoting"),
    ("l.csv", 'query,document,label\nq,d,1\nq,"c,1\nq,d,1\n', "l.csv:3: broken quoting"),
    ("l.tsv", 'query\tdocument\tlabel\nq\t"F\t1\nq\te\t0\nq\tb"\t0\n', "l.tsv:2: a field opens with a quote .* ends 2 rows below"),
    ("l.csv", 'query,document,label\nq,"a\nb",1\nq,c,yes\n', "l.csv:4: 'label' must be a finite number >= 0, got \"yes\""),
    ("l.csv", "query,document,label\nq,c,-1\n", "l.csv:2: 'label' must be a finite number >= 0, got -1"),
    ("l.csv", "query,document,label\nq,c,nan\n", "l.csv:2: 'label' must be a finite number >= 0"),
    ("l.csv", "query,document,label\nq,c,Infinity\n", "l.csv:2: 'label' must be a finite number >= 0"),
    ("l.csv", "query,document,label\nq,c,true\n", "l.csv:2: 'label' must be a finite number >= 0, got true"),
    ("l.csv", "query,document,label\nq,c,\n", "l.csv:2: 'label' must be a finite number >= 0"),
    ("l.csv", "query,document,label\nq,c," + "[" * 100_000, "l.csv:2: 'label' must be a finite number >= 0"),
    ("l.tsv", "label\t" + "a passage " * 50 + "\tno\n", "found 'label', '(a passage ){4}', 'no'; " + EXPECTED),
    ("l.csv", "query,document,label\n ,c,1\n", "l.csv:2: the query is empty"),
    ("l.csv", "query_id,query,document,label\n1,q,c,1\n1,r,c,1\n", "l.csv:3: query_id '1' has another query in an earlier line"),
    ("l.csv", b"query,document,label\nq,\xe9,1\n", "l.csv:2: not UTF-8 text"),
])  # fmt: skip
def test_tables_that_cannot_be_read_are_refused_with_their_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message) as error:
        read_groups(write(tmp_path / name, text))
    assert "\n" not in str(error.value)


def test_other_columns_are_named_in_a_warning(tmp_path, caplog):
    path = write(tmp_path / "l.csv", ",query,document,label,annotator\n0,q,d1,2,me\n1,q,d2,0,me\n")
    assert read_groups(path) == PAIRS
    assert "l.csv: ignored columns that pairs do not have: 'column 1', 'annotator'" in caplog.text


def test_the_csv_module_keeps_its_limit(tmp_path):
    before = csv.field_size_limit()
    read_table(write(tmp_path / "a.csv", "text\n" + "x" * 200_000))
    assert csv.field_size_limit() == before


# A carriage return is a line end in any text file, and a mark of byte order at a line's start is dropped.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\ufeff\x00"), max_size=12)
TEXT = TEXT.filter(lambda text: not {"\t", "\n"} <= set(text))  # in a table with tabs such a field may look like rows
ROWS = st.lists(st.tuples(TEXT.filter(str.strip), TEXT, st.integers(0, 3)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, delimiter=st.sampled_from(",;\t"), order=st.permutations(range(3)), suffix=st.sampled_from((".csv", ".tsv")))
def test_pairs_in_a_table_are_those_of_jsonl(tmp_path_factory, rows, delimiter, order, suffix):
    folder, names = tmp_path_factory.mktemp("t"), ("query", "document", "label")
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows([[row[i] for i in order] for row in (names, *rows)])
    records = "".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows)
    groups = read_groups(write(folder / "p.jsonl", records))
    assert read_groups(write(folder / f"p{suffix}", out.getvalue())) == groups


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(TEXT.filter(str.strip), TEXT.filter(bool), TEXT.filter(bool)), min_size=1, max_size=6))
def test_triples_in_a_table_are_those_of_jsonl(tmp_path_factory, rows):
    folder, names = tmp_path_factory.mktemp("t"), ("query", "positive", "negative")
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows([names, *rows])
    records = "".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows)
    groups = read_groups(write(folder / "t.jsonl", records))
    assert read_groups(write(folder / "t.tsv", out.getvalue())) == groups
