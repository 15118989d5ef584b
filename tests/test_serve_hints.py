"""The lines for a human: shown at a terminal only, with an address that works and the meaning of a score."""

import io
import sys
from types import SimpleNamespace

import pytest

from prorank.serve.hints import playground_hint, score_hint
from prorank.serve.logs import print_to_terminal


@pytest.mark.parametrize(
    "host, url",
    [
        ("127.0.0.1", "http://127.0.0.1:8000/ "), ("0.0.0.0", "http://localhost:8000/ "), ("::", "http://localhost:8000/ "),
        ("::1", "http://[::1]:8000/ "),
    ],
)  # fmt: skip
def test_the_address_of_the_playground_can_be_opened(host, url):
    assert playground_hint(host, 8000).startswith(f"playground: {url}")


def test_the_meaning_of_a_score_depends_on_the_model():
    plain, calibrated = (score_hint(SimpleNamespace(compares_documents=False, calibration=value)) for value in (None, object()))
    assert "yes and no equally likely" in plain and "prorank calibrate" in plain and ".387 to .903" in plain
    assert "calibrated probabilities" in calibrated and ".387" not in calibrated
    assert "log-odds" not in score_hint(SimpleNamespace(compares_documents=True, calibration=None))


@pytest.mark.parametrize("terminal", [True, False])
def test_programs_that_read_the_log_see_no_plain_lines(monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    print_to_terminal("a line")
    assert stream.getvalue() == ("a line\n" if terminal else "")
