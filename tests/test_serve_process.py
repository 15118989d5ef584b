"""`prorank serve` as a process of its own: from its first line to its exit code.

A process takes seconds to start, so each test asks several things of one.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys

import httpx2
import pytest

BODY = {"query": "garden", "documents": [f"the old castle {i} and the garden" for i in range(200)]}


class Process:
    """A server's process; its log lines are read as they come."""

    def __init__(self, model, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "prorank", "serve", "--model", str(model), "--port", "0", "--device", "cpu", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        self.port = self.line("listening")["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def line(self, event: str) -> dict:
        """The next line about an event."""
        for text in self.process.stderr:
            if (line := json.loads(text))["event"] == event:
                return line
        raise AssertionError(f"the log has no line {event}")

    def end(self, number: int | None = None) -> tuple[int, list[dict]]:
        """(exit code, rest of the log) after a signal."""
        if number is not None:
            self.process.send_signal(number)
        rest = [json.loads(text) for text in self.process.stderr]
        return self.process.wait(120), rest


@pytest.fixture
def start():
    made = []
    yield lambda *given, **more: made.append(Process(*given, **more)) or made[-1]
    for one in made:
        one.process.kill()
        one.process.wait()
        one.process.stderr.close()


def ask(url: str) -> str:
    try:
        answer = httpx2.post(f"{url}/v1/rerank", json=BODY, timeout=120)
    except (httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError):
        return "not let in"
    assert answer.status_code in (200, 503) and (answer.status_code == 503 or len(answer.json()["results"]) == 200)
    return str(answer.status_code)


@pytest.mark.timeout(300)
def test_sigterm_answers_all_accepted_requests_and_kill_9_does_no_harm(start, tiny_llama_dir):
    server = start(tiny_llama_dir, "--name", "tiny", "--api-key-env", "TEST_KEY", TEST_KEY="k", PYTHONUNBUFFERED="1")
    assert server.line("ready")["model"] == "tiny"
    assert httpx2.get(f"{server.url}/v1/models").status_code == 401
    models = httpx2.get(f"{server.url}/v1/models", headers={"authorization": "Bearer k"}).json()
    assert models["data"][0]["id"] == "tiny"
    server.process.kill()
    assert server.process.wait(60) == -signal.SIGKILL

    again = start(tiny_llama_dir)  # nothing to clean up
    again.line("ready")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, again.url) for _ in range(36)]
        again.line("request")  # the first is answered, others are inside
        code, rest = again.end(signal.SIGTERM)
        found = [one.result() for one in asked]
    answered = [line["status"] for line in rest if line["event"] == "request"]
    assert code == 0 and rest[-1]["event"] == "stopped"
    assert set(answered) <= {200} and found.count("200") == 1 + len(answered)  # all who were let in
    assert found.count("200") >= 2


@pytest.mark.timeout(300)
def test_ctrl_c_ends_an_idle_server(start, tiny_llama_dir):
    server = start(tiny_llama_dir)
    server.line("ready")
    code, rest = server.end(signal.SIGINT)
    assert code == 0 and rest[-1]["event"] == "stopped"


@pytest.mark.timeout(300)
def test_a_model_that_fails_to_load_ends_the_process(start, tiny_llama_dir, tmp_path):
    """Its folder looks right, so this shows only once the weights are read."""
    import shutil

    broken = shutil.copytree(tiny_llama_dir, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    command = [sys.executable, "-m", "prorank", "serve", "--model", str(broken), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
