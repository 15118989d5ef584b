"""The layout and the names of the package: small files, one meaning a name, a root that holds the front door only."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import prorank

PACKAGE = Path(prorank.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FRONT_DOOR = {"__init__.py", "__main__.py", "errors.py", "reranker.py", "trainer.py"}
# Words that say nothing of what they name, and names that were replaced by the field's own.
RETIRED = set(
    "some asked said told sure heard mine most least found given pen writer Pen pen_of Writer BoundPrompt BoundListPrompt bounds "
    "Parts Cuts take_thoughts take_lists holds_many check_lists unread children Labels together usable live Dense Live LowRank "
    "look turn spin even Own OwnThoughts AHEAD SHARING Unit course Milestones further _gain blend Ask Refused Room Held LETTERS "
    "shipped kl_coef cliprange group_size keep_answers evals at_once tries split_special max_waiting max_held_bytes".split()
)
NOTE_WORDS = {"note_keys.py"}  # translates the words of Rerank-R0's own file


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Names of variables, attributes, arguments, functions and classes. TypeVar's own keyword `bound` is not ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_retired_names_do_not_occur(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name not in NOTE_WORDS:
        assert not RETIRED & set(identifiers(tree))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


def test_retired_names_are_found() -> None:
    code = "class Pen:\n    def __init__(self, most):\n        self.told = f(least=most)\nsome = 1"
    assert set(identifiers(ast.parse(code))) >= {"Pen", "most", "told", "least", "some"}


def test_the_root_holds_the_front_door_only() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == FRONT_DOOR


def test_no_two_modules_or_public_classes_share_a_name() -> None:
    modules = Counter(path.stem for path in MODULES if path.name != "__init__.py")
    assert [name for name, count in modules.items() if count > 1] == []
    classes = Counter(
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []
