"""The public names of the package: in any order of imports, and after any of them.

Importing a subpackage must not replace the function of the same name.
"""

import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import prorank

ROOT = Path(prorank.__file__).parent.parent
LINES = [
    "from prorank import load_settings, train",
    "from prorank import Reranker, evaluate",
    "import prorank.train.run",
    "import prorank.evaluate.benchmark",
    "import prorank.adapt.adaptation, prorank.calibrate.fit, prorank.export.classifier",
    "from prorank import adapt, calibrate, export",
    "from prorank.adapt import adapt as adapt_function",
    "from prorank.demo import run_demo",
    "from prorank import train, evaluate, Hit, Prompt, ProRankError",
    "from prorank import *",
    "from prorank.train.run import train as train_function",
]
CHECK = """
import prorank
from prorank.errors import ProRankError
nothing = "/nonexistent"
calls = [(prorank.evaluate, ([],)), (prorank.train, (prorank.load_settings,)), (prorank.export, (nothing, nothing, "x"))]
calls += [(prorank.adapt, (nothing, nothing)), (prorank.calibrate, (nothing, nothing))]
for call, words in calls:
    assert callable(call), call
    try:
        call(*words)
    except (ProRankError, AttributeError) as error:  # it was called
        print(type(error).__name__, error)
assert prorank.evaluate.Scorer and prorank.train.run.train and prorank.evaluate.evaluate
assert prorank.adapt.adapt and prorank.calibrate.calibrate and prorank.export.export and prorank.demo.run_demo
assert all(getattr(prorank, name) is not None for name in prorank.__all__) and set(prorank.__all__) <= set(dir(prorank))
"""


@pytest.mark.parametrize("order", [LINES, LINES[::-1]], ids=["down", "up"])
def test_names_work_in_any_order_of_imports(order):
    """In a separate process, where nothing was imported before."""
    code = "\n".join(["import sys", *order, CHECK])
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert said.returncode == 0, said.stderr
    first, second, *others = said.stdout.splitlines()
    assert first == "ConfigError name at least one dataset folder" and "check" in second
    assert others[0].startswith("ConfigError unknown format 'x'") and len(others) == 3
    assert all(line.startswith("ModelError /nonexistent: no such folder or file") for line in others[1:])


@pytest.mark.parametrize("names", list(itertools.permutations(["train", "evaluate", "load_settings", "adapt", "export"], 2)))
def test_names_are_right_after_all_imports(names):
    """In this process, where everything was imported before."""
    space: dict = {}
    exec(f"import prorank.train.run, prorank.evaluate.benchmark\nfrom prorank import {', '.join(names)}", space)
    assert all(callable(space[name]) for name in names)


def test_functions_keep_their_signatures_and_can_be_pickled():
    import copy
    import pickle

    from prorank.adapt.adaptation import adapt
    from prorank.calibrate.calibration_run import calibrate
    from prorank.evaluate.benchmark import evaluate
    from prorank.export.exporter import export
    from prorank.train.run import train

    assert inspect.signature(prorank.train) == inspect.signature(train)
    assert inspect.signature(prorank.evaluate) == inspect.signature(evaluate)
    assert inspect.signature(prorank.adapt) == inspect.signature(adapt)
    assert inspect.signature(prorank.calibrate) == inspect.signature(calibrate)
    assert inspect.signature(prorank.export) == inspect.signature(export)
    for module in (prorank.train, prorank.evaluate, prorank.adapt, prorank.calibrate, prorank.export):
        assert pickle.loads(pickle.dumps(module)) is module is copy.deepcopy(module)
        assert inspect.ismodule(module)


def test_importing_the_package_loads_no_library():
    """Names are imported on first use."""
    code = "import sys, prorank\nprint([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert said.stdout.strip() == "[]", said.stderr
