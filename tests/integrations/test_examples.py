"""The examples of docs/guides/integrations.md, run as they stand.

Two names are changed: the checkpoint becomes a tiny one, and MTEB's task, which would be fetched, becomes one made here.
"""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S)
TASK = 'mteb.get_task("AskUbuntuDupQuestions")'
OURS = '__import__("tests.integrations.toy_task", fromlist=["x"]).ToyReranking()'


@pytest.mark.parametrize("name, code", EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_run(name, code, finished_run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    assert "runs/demo/score" in code
    code = code.replace("runs/demo/score", str(finished_run)).replace(TASK, OURS)
    exec(compile(code, name, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


def test_there_is_one_for_each_integration():
    files = {path.stem for path in (Path(__file__).parents[2] / "prorank" / "integrations").glob("*.py")} - {"__init__", "shared"}
    assert {name for _, code in EXAMPLES for name in re.findall(r"prorank\.integrations\.(\w+)", code)} == files
