"""Labelling: valid answers, patience with servers, and a ledger that avoids repeated requests.

The teacher is a real HTTP server in a thread, which counts requests and can be scripted to fail.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.data.chat_endpoint import Endpoint, retry_after
from prorank.data.formats import read_groups
from prorank.data.rerank_r0_logs import convert
from prorank.data.teacher_labels import label, verdict
from prorank.errors import ConfigError, DataError


class Teacher:
    """A chat endpoint that says yes to documents with "good"; `script` are statuses (and headers) to give before."""

    def __init__(self, script=(), port: int = 0):
        self.script, self.asked, self.keys, self.bodies = list(script), [], [], []
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                teacher.keys.append(self.headers["Authorization"])
                status, headers = teacher.script.pop(0) if teacher.script else (200, {})
                if status == 200:
                    teacher.bodies.append(body)
                    teacher.asked.append(re.search(r"Document: (.*)", body["messages"][0]["content"])[1])
                    answer = headers.get("content") or ("yes" if "good" in teacher.asked[-1] else "No.")
                    message = {"content": answer, "reasoning_content": f"about {teacher.asked[-1]}"}
                    reply = {"choices": [{"message": message}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
                else:
                    reply = {"error": "not now"}
                self.send_response(status)
                for name, value in headers.items():
                    if name != "content":
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(reply).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def teacher():
    one = Teacher()
    yield one
    one.stop()


def write_pairs(path, *documents, query="q"):
    path.write_text("".join(json.dumps({"query": query, "document": text}) + "\n" for text in documents))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "content, thought, want",
    [
        ("yes", "why", ("yes", "why")),
        (" No.\n", "", ("no", "")),
        ("**Yes**", "", ("yes", "")),
        ('"no"', "", ("no", "")),
        ("<think>\nwhy\n</think>\n\nyes", "", ("yes", "why")),
        ("why</think>no", "", ("no", "why")),  # the template opened the thought
        ("<think>a</think>yes", "field", ("yes", "field")),
        ("yes, it does", "", None),
        ("yes no", "", None),
        ("<think>yes", "", None),
        ("", "yes", None),
        ("yesno", "", None),
    ],
)
def test_only_a_yes_or_no_is_an_answer(content, thought, want):
    assert verdict(content, thought) == want


def test_pairs_are_asked_once_each_and_written_in_order(teacher, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", "good a", "bad", "good b", "bad")
    said = label(pairs, tmp_path / "out", Endpoint(teacher.url, "big", temperature=0.0), concurrency=3)
    assert read(tmp_path / "out") == [
        {"query": "q", "document": "good a", "think": "about good a", "answer": "yes", "label": 1},
        {"query": "q", "document": "bad", "think": "about bad", "answer": "no", "label": 0},
        {"query": "q", "document": "good b", "think": "about good b", "answer": "yes", "label": 1},
    ]
    assert sorted(teacher.asked) == ["bad", "good a", "good b"]
    assert teacher.bodies[0]["model"] == "big" and teacher.bodies[0]["temperature"] == 0.0
    assert "3 pairs labelled (2 yes, 1 no)" in said and "30 prompt and 6 completion tokens" in said
    assert [group.labels for group in read_groups(tmp_path / "out")] == [(1.0, 0.0, 1.0)]
    label(pairs, tmp_path / "out", Endpoint(teacher.url, "big"))
    assert len(teacher.asked) == 3  # a finished run asks nothing
    label(pairs, tmp_path / "out", Endpoint(teacher.url, "other"))
    assert len(teacher.asked) == 6  # another teacher is another opinion


def test_the_log_form_converts_back(teacher, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", "good a", "bad", "good b", "worse")
    label(pairs, tmp_path / "log", Endpoint(teacher.url, "big"), form="log")
    assert len(read(tmp_path / "log")) == 2
    convert(tmp_path / "log", tmp_path / "out")
    label(pairs, tmp_path / "pairs_out", Endpoint(teacher.url, "big"))
    assert sorted(map(str, read(tmp_path / "out"))) == sorted(map(str, read(tmp_path / "pairs_out")))


def test_temporary_failures_are_retried(tmp_path):
    teacher = Teacher([(429, {"Retry-After": "0.2"}), (503, {}), (500, {}), (200, {"content": "perhaps"})])
    endpoint = Endpoint(teacher.url, "big")
    said = label(write_pairs(tmp_path / "pairs", "good"), tmp_path / "out", endpoint, concurrency=1)
    teacher.stop()
    assert endpoint.retries == 3 and teacher.asked == ["good", "good"]  # "perhaps" was asked again
    assert "1 pairs labelled" in said and "20 prompt" in said


def test_pairs_without_an_answer_are_left_out_and_retried_on_request(tmp_path):
    teacher = Teacher([(200, {"content": "perhaps"})] * 2)
    pairs = write_pairs(tmp_path / "pairs", "good", "bad")
    said = label(pairs, tmp_path / "out", Endpoint(teacher.url, "big"), concurrency=1, max_attempts=2)
    assert "1 without a valid answer" in said and [row["document"] for row in read(tmp_path / "out")] == ["bad"]
    said = label(pairs, tmp_path / "out", Endpoint(teacher.url, "big"), concurrency=1)
    assert "0 sent now" in said and "1 without a valid answer" in said and len(read(tmp_path / "out")) == 1
    label(pairs, tmp_path / "out", Endpoint(teacher.url, "big"), concurrency=1, retry_unparsed=True)
    assert len(read(tmp_path / "out")) == 2 and teacher.asked == ["good", "good", "bad", "good"]
    teacher.stop()


def test_a_server_that_comes_back_goes_on(tmp_path):
    first = Teacher()
    first.stop()
    late: list[Teacher] = []
    timer = threading.Timer(1.0, lambda: late.append(Teacher(port=first.port)))
    timer.start()
    said = label(write_pairs(tmp_path / "pairs", "good", "bad"), tmp_path / "out", Endpoint(first.url, "big"))
    late[0].stop()
    assert "2 pairs labelled" in said and len(late[0].asked) == 2


def test_an_interrupted_run_resumes_without_repeated_requests(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "very-secret")
    teacher = Teacher([(200, {}), (200, {}), (401, {})])
    pairs = write_pairs(tmp_path / "pairs", "good", "bad", "worse", "good again")
    with pytest.raises(DataError, match="status 401.*set the key") as caught:
        label(pairs, tmp_path / "out", Endpoint(teacher.url, "big", "TEACHER_KEY"), concurrency=1)
    assert not (tmp_path / "out").exists()
    ledger = tmp_path / "out.ledger.jsonl"
    ledger.write_text(ledger.read_text() + '{"key": "cut sho')  # as a killed run may leave it
    label(pairs, tmp_path / "out", Endpoint(teacher.url, "big", "TEACHER_KEY"), concurrency=1)
    assert sorted(teacher.asked) == ["bad", "good", "good again", "worse"] and len(read(tmp_path / "out")) == 4
    assert set(teacher.keys) == {"Bearer very-secret"}
    assert "secret" not in ledger.read_text() + str(caught.value) + (tmp_path / "out").read_text()
    assert len(list(filter(None, ledger.read_text().split("\n")))) == 5
    teacher.stop()


def test_patience_ends(tmp_path):
    first = Teacher()
    first.stop()
    with pytest.raises(DataError, match="no answer for 1 seconds; last: ConnectError"):
        label(write_pairs(tmp_path / "pairs", "a"), tmp_path / "out", Endpoint(first.url, "big", patience=1.0))


def test_responses_that_are_no_chat_completion_are_reported(tmp_path, monkeypatch, teacher):
    monkeypatch.setattr(json, "dumps", lambda *a, keep=json.dumps, **k: '{"a": 1}' if a and "choices" in a[0] else keep(*a, **k))
    with pytest.raises(DataError, match=r"not a chat completion \(KeyError: 'choices'\)"):
        label(write_pairs(tmp_path / "pairs", "a"), tmp_path / "out", Endpoint(teacher.url, "big"))


def test_retry_after_is_a_number_or_a_date():
    assert retry_after("3") == 3.0 and retry_after("soon") is None and retry_after(None) is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Fri, 31 Dec 2100 23:59:59 GMT") > 1e6


def test_the_command_checks_before_it_asks(tmp_path, teacher):
    pairs = str(write_pairs(tmp_path / "pairs", "good"))

    def run(*more: str):
        return CliRunner().invoke(app, ["label", pairs, str(tmp_path / "out"), *more])

    assert isinstance(run().exception, ConfigError) and "--extractive" in str(run().exception)
    assert "expected an address" in str(run("--endpoint", "localhost", "-m", "big").exception)
    assert "--form logs: expected training or log" in str(run("--endpoint", teacher.url, "-m", "big", "--form", "logs").exception)
    said = run("--endpoint", teacher.url, "-m", "big", "--max-tokens", "50")
    assert said.exit_code == 0 and "1 pairs labelled (1 yes, 0 no)" in said.stdout and teacher.bodies[0]["max_tokens"] == 50
