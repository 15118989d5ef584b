"""Printing: streams of other encodings, untrusted text on a terminal, a reader that closes the pipe."""

import io
import json
import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.cli.command_line import main
from prorank.evaluate.terminal_report import bars, show
from prorank.rank.documents import Hit
from prorank.rank.rerank_files import show as show_hits
from prorank.utils.progress import Spinner
from prorank.utils.terminal import StderrHandler, VisibleFormatter, argument_text, json_line, one_line, plain, visible
from tests.test_cli_errors import place  # noqa: F401

ENCODINGS = ("cp1252", "cp932", "ascii", "latin-1", "utf-8")
NASTY = "日本 é “q” ❤ :warning: [red]x[/red] [/] \x1b[31m\x1b]0;t\x07 \u202e\u2066 \x9b \x7f \\"
SHOWN = r"日本 é “q” ❤ :warning: [red]x[/red] [/] \x1b[31m\x1b]0;t\x07 \u202e\u2066 \x9b \x7f" + " \\"
LOG = '{"query": "q", "response": "a", "response_thinking": "t", "rejected_response": [{"document": "b", "thinking": "u"}]}\n'


@pytest.fixture
def nasty(place):  # noqa: F811
    """A working folder whose texts and names hold all that terminals stumble over."""
    rows = [{"_id": "d1", "text": NASTY}, {"_id": "d2", "text": "a new horse"}]
    place.write("docs.jsonl", "".join(json.dumps({"id": "é[b]", **row}) + "\n" for row in rows))
    place.write("set/corpus.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    place.write("log.jsonl", LOG)
    place.write("completions.jsonl", json.dumps({"completion": NASTY, "label": 1, "finished": True}) + "\n")
    (place.folder / "set").rename(place.folder / "日本 [b]")
    (place.folder / "ré").mkdir()
    place.write("ré/metrics.jsonl", '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    (place.folder / "模").symlink_to(place.base)
    return place


VERBS = [
    ["rerank", "docs.jsonl", "--query", "é", "--model", "模"],
    ["rerank", "docs.jsonl", "--query", "é", "--model", "模", "--json"],
    ["rerank", "--run", "in.run", "--dataset", "日本 [b]", "--out", "❤.run", "--model", "模"],
    ["evaluate", "日本 [b]", "--run", "in.run", "--out", "❤"],
    ["mine", "日本 [b]", "❤.jsonl", "--negatives", "1"],
    ["sample-pairs", "❤.jsonl", "--run", "in.run", "--dataset", "日本 [b]"],
    ["import-logs", "log.jsonl", "❤.jsonl"],
    ["label", "日本 [b]", "❤.jsonl", "--extractive"],
    ["score-completions", "completions.jsonl", "--model", "模"],
    ["plot", "ré"],
    ["pull", "模"],
    ["info", "--model", "模"],
    ["export", "模", "❤", "--format", "merged"],
    ["search", "日本 [b]", "horse", "--model", "模"],
    ["search", "日本 [b]", "horse", "--no-rerank", "--json"],
    ["train", "--list-keys"],
    ["--help"],
    ["rerank", "--help"],
]


def printed(monkeypatch, words, encoding: str) -> tuple[int, bytes]:
    """Exit code and bytes on stdout of a command whose stdout is strict in this encoding."""
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding=encoding, errors="strict"))
    monkeypatch.setattr("sys.argv", ["prorank", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), held.getvalue()


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[:1] + words[-1:]))
def test_every_verb_prints_on_streams_of_any_encoding(words, nasty, monkeypatch):
    for number, encoding in enumerate(ENCODINGS):
        code, said = printed(monkeypatch, [word.replace("❤", f"❤{number}") for word in words], encoding)
        assert code == 0 and said.decode(encoding).strip()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_whole_in_every_encoding(encoding, nasty, monkeypatch):
    """In ASCII where stdout is not UTF-8, as a reader of JSON takes it for that."""
    code, said = printed(monkeypatch, VERBS[1], encoding)
    documents = {row["index"]: row["document"] for row in map(json.loads, said.decode("utf-8").splitlines())}
    assert code == 0 and documents[0] == {"id": "é[b]", "_id": "d1", "text": NASTY}


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": name} for name in ENCODINGS] + [{"PYTHONUTF8": "0", "LC_ALL": "C"}])
def test_help_and_errors_in_a_process_of_their_own(variables, tmp_path):
    """As a shell starts it; the error line names a file whose name the stream cannot hold."""
    for words, code in ((["--help"], 0), (["rerank", "日本.txt", "--query", "q"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "prorank", *words], capture_output=True, cwd=tmp_path,
            env={**os.environ, "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        )  # fmt: skip
        assert done.returncode == code and b"Traceback" not in done.stderr
        assert (done.stdout if code == 0 else done.stderr).count(b"\n") >= 1 and (code == 0 or done.stderr.count(b"\n") == 1)


def test_documents_are_shown_as_they_are(capsys, monkeypatch):
    """No markup, no emoji, no escape sequence, nothing doubled; ids and thoughts alike."""
    monkeypatch.setenv("COLUMNS", "400")
    hit = Hit(0, 1.0, {"text": NASTY, "id": NASTY}, thought=NASTY, thought_cut=False)
    show_hits([hit], as_json=False, thoughts=True)
    said = capsys.readouterr().out
    assert said.count(SHOWN) == 3 and f"[{SHOWN}] {SHOWN}" in said


def test_evaluations_show_names_as_they_are(capsys, monkeypatch):
    """Datasets, systems, notes, and bars."""
    from prorank.evaluate.results import Evaluation, Row

    monkeypatch.setenv("COLUMNS", "400")
    row = Row(NASTY, NASTY, "model", {"nDCG@10": 0.5, "MRR@10": 0.5}, 1, (0.0, 1.0))
    row.findings = {"pairs": 1, "format_rate": 1.0, "format_mass": 1.0, "effective_rank": 1.0, "mean_cosine": 0.5}
    evaluation = Evaluation(rows=[row], values={NASTY: {}})
    evaluation.notes[NASTY] = [NASTY]
    show(evaluation)
    assert capsys.readouterr().out.count(SHOWN) == 5
    with bars() as hear:
        hear(NASTY, 1, 1)
    assert SHOWN in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_spinner_is_shown_on_terminals_and_disappears(monkeypatch):
    """Texts are shown as they are; a log line in between stands above it, and the line is erased at the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = StderrHandler()
    record = logging.LogRecord("prorank", logging.WARNING, "", 0, "a warning", (), None)
    with Spinner(f"loading {NASTY}") as spinner:
        handler.emit(record)
        spinner.update("loading more")
    shown = terminal.getvalue()
    assert f"loading {SHOWN} ..." in shown and "a warning\n" in shown and sys.stderr is terminal
    assert shown.endswith("\x1b[2K") and "\x1b[?25h" in shown  # the line is erased, the cursor is back
    spinner.update("nothing")
    assert terminal.getvalue() == shown


def test_no_spinner_in_files_and_pipes(monkeypatch, capsys):
    with Spinner("loading") as spinner:
        spinner.update("loading more")
        spinner.stop()
    monkeypatch.setattr(sys, "stderr", None)
    with Spinner("loading"):
        pass
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\u202eb", "[red]:warning:", "a\\"])
def test_error_lines_are_one_line_of_text(name, place):  # noqa: F811
    """Names of files, in errors."""
    code, said = place.run("rerank", name, "--query", "q", "--model", str(place.base))
    assert (code, said) == (2, f"error: {one_line(name)}: no such file\n")


def test_log_lines_are_shown_as_they_are():
    record = logging.LogRecord("prorank", logging.INFO, "", 0, "%s: read", (NASTY,), None)
    assert VisibleFormatter("%(message)s").format(record) == f"{SHOWN}: read"


@pytest.mark.parametrize("text", ["é 日本", "plain", None])
def test_arguments_are_utf8_in_an_ascii_locale(text, monkeypatch):
    """PYTHONUTF8=0 with LC_ALL=C hands over each byte for itself."""
    monkeypatch.setattr(os, "fsencode", lambda given: given.encode("ascii", "surrogateescape"))
    assert argument_text(text and text.encode().decode("ascii", "surrogateescape")) == text


@given(st.text())
def test_only_printable_text_is_printed(text):
    """Whatever the text; what is printable stays as it is, and JSON says the same."""
    shown = visible(text)
    assert not [c for c in shown if ord(c) < 32 and c not in "\t\n" or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000]
    assert plain(text).plain == shown and "\n" not in one_line(text)
    if text.isprintable():
        assert shown == text
    line = json_line({"text": text})
    assert json.loads(line) == {"text": text} and visible(line) == line and "\n" not in line


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [VERBS[0], VERBS[1], ["pull", "模"], ["--version"]], ids=["table", "json", "pull", "version"])
def test_a_closed_pipe_ends_the_program_silently(words, buffered, nasty, monkeypatch, capsys):
    """As `| head -1`, with a line in the buffer or none."""
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(open(writing, "wb", buffering=-1 if buffered else 0), "utf-8", write_through=not buffered) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr("sys.argv", ["prorank", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code and "error" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [VERBS[0], VERBS[1], ["pull", "模"], ["--version"]], ids=["table", "json", "pull", "version"])
def test_a_full_disk_behind_stdout_is_one_line(words, nasty, monkeypatch, capsys):
    """`> FILE` on a disk that is full must not end as a success."""
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr("sys.argv", ["prorank", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.endswith("error: <stdout>: No space left on device\n")


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[:1] + words[-1:]))
def test_a_closed_stdout_is_no_error(words, nasty, monkeypatch):
    """`>&-`, and programs without a console."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr("sys.argv", ["prorank", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
