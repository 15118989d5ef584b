"""The project's own files: imports are declared, lower bounds are the versions that are tested, and tests are repeatable."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = {  # module -> package, where they differ
    "Stemmer": "pystemmer",
    "bs4": "beautifulsoup4",
    "haystack": "haystack-ai",
    "llama_index": "llama-index-core",
    "pydantic_core": "pydantic",  # which pins it
    "yaml": "pyyaml",
}
OPTIONAL = {"deepspeed", "mxbai_rerank"}  # used where they are there, in no extra
FOLDERS_OF_PYTHON = ("tests", "benchmarks", "scripts", "recipes", "examples")
FOLDERS = {"serve": "serve", "train": "train"}  # folders of `prorank/` that are imported only where this extra is there


def package(name: str) -> str:
    """A package's name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(extra: str = "") -> dict[str, str]:
    """The lowest version of each package that an extra (by default the project itself) requires."""
    found: dict[str, str] = {}
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        name, extras, lowest = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(?:>=([\w.]+))?(?:; .+)?", line).groups()
        if package(name) == "prorank":
            for other in extras.split(","):
                found |= requirements(other)
        else:
            found[package(name)] = lowest
    return found


def imports(node: ast.AST, extra: str = "") -> Iterator[tuple[str, str]]:
    """(top module, the extra of the `with extra(...)` around it or "") of every absolute import below a node."""
    for child in ast.iter_child_nodes(node):
        around = extra
        if isinstance(child, ast.With):
            calls = [item.context_expr for item in child.items if isinstance(item.context_expr, ast.Call)]
            around = next((call.args[0].value for call in calls if getattr(call.func, "id", "") == "extra"), extra)
        names = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
        if isinstance(child, ast.ImportFrom) and child.level == 0:
            names = [child.module]
        yield from ((name.split(".")[0], around) for name in names)
        yield from imports(child, around)


def undeclared(source: str, folder: str = "") -> list[str]:
    """The imports of a file in this folder of `prorank/` that neither the project nor the extra around them requires."""
    missing = []
    for module, extra in imports(ast.parse(source)):
        declared = requirements() | requirements(extra or FOLDERS.get(folder, ""))
        if module not in sys.stdlib_module_names | {"prorank"} and package(NAMES.get(module, module)) not in declared:
            missing.append(f"{module} (extra '{extra}')" if extra else module)
    return missing


@pytest.mark.parametrize("path", sorted((ROOT / "prorank").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_declared(path: Path) -> None:
    """Filelock, huggingface_hub, tokenizers, starlette and pydantic came in through other packages."""
    assert undeclared(path.read_text(encoding="utf-8"), path.relative_to(ROOT / "prorank").parts[0]) == []


def test_undeclared_imports_are_found() -> None:
    source = "import filelock\ndef f():\n    import scipy, os.path\n    with extra('eval'):\n        import bm25s, fastapi.x\n"
    assert undeclared(source) == ["scipy", "fastapi (extra 'eval')"]
    assert undeclared("import fastapi", "serve") == [] and undeclared("import fastapi", "data") == ["fastapi"]


@pytest.mark.parametrize("folder", FOLDERS_OF_PYTHON)
def test_what_else_imports_is_declared_in_some_extra(folder: str) -> None:
    """The tests' own imports; modules of the repository are found by their files."""
    own = {path.stem for top in FOLDERS_OF_PYTHON for path in (ROOT / top).rglob("*.py")} | {"prorank", *FOLDERS_OF_PYTHON}
    known = {name for extra in ["", *PROJECT["optional-dependencies"]] for name in requirements(extra)}
    for path in (ROOT / folder).rglob("*.py"):
        for module, _ in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if module not in sys.stdlib_module_names | own | OPTIONAL:
                assert package(NAMES.get(module, module)) in known, f"{path.name}: {module}"


def pins(name: str) -> dict[str, str]:
    """Versions that a file of constraints names, by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {package(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line and not line.startswith("#")}


def test_the_lowest_versions_are_the_tested_ones() -> None:
    """Each lower bound is what `make test-lowest` installs; `make -B constraints-lowest.txt` writes them anew."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    tested, wrong = pins("constraints-lowest.txt"), {}
    for extra in ["", *re.search(r"^TESTED := (.+)$", makefile, re.M)[1].split(",")]:
        for name, lowest in requirements(extra).items():
            if re.sub(r"(\.0)*$", "", tested.get(name, "none")) != re.sub(r"(\.0)*$", "", lowest):
                wrong[name] = (lowest, tested.get(name))
    assert not wrong, "lower bounds that are not the tested versions"


def test_every_requirement_has_a_lower_bound_and_a_pin() -> None:
    for extra in ["", *PROJECT["optional-dependencies"]]:
        for name, lowest in requirements(extra).items():
            assert lowest, f"{name}: no lower bound"
            assert name in pins("constraints.txt"), f"{name}: not in constraints.txt"


CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
UNSEEDED = {"SystemRandom", "secrets.token_bytes", "secrets.randbelow", "secrets.choice", "os.urandom"}
GLOBAL = re.compile(r"(?:random|np\.random|numpy\.random)\.(?!Random$|default_rng$|Generator$|RandomState$|seed$)[a-z]\w*$")


def reads_clock(node: ast.AST, clocked: set[str]) -> bool:
    """Whether an expression calls a clock of `time`, or has a name that holds what one said."""
    return any(
        (isinstance(part, ast.Attribute) and ast.unparse(part.value) == "time" and part.attr in CLOCKS)
        or (isinstance(part, ast.Name) and part.id in clocked)
        for part in ast.walk(node)
    )


def unrepeatable(source: str) -> list[str]:
    """Lines of a test file that assert what a clock says, or draw by chance without a seed of their own."""
    tree, found = ast.parse(source), []
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and reads_clock(node.value, set())]
    clocked = {part.id for node in assigned for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and reads_clock(node.test, clocked):
            found.append(f"{node.lineno}: asserts a time")
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            bare = name.rsplit(".", 1)[-1] in ("Random", "default_rng", "RandomState") and not node.args and not node.keywords
            if bare or name in UNSEEDED or name.endswith(".SystemRandom") or GLOBAL.match(name):
                found.append(f"{node.lineno}: {name} without a seed")
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_assert_no_time_and_draw_by_seed(path: Path) -> None:
    """No wall-clock assertion, no chance that cannot be had again."""
    assert unrepeatable(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    ["began = time.monotonic()\nassert time.monotonic() - began < 30", "assert time.perf_counter() < until", "x = random.random()",
     "begin = time.time()\nrun()\ntook = time.time() - begin\nassert took < 3", "random.SystemRandom().randint(1, 2)",
     "np.random.default_rng()", "Random()", "np.random.rand(3)", "random.shuffle(x)"],
)  # fmt: skip
def test_unrepeatable_lines_are_found(line: str) -> None:
    assert unrepeatable(line)


@pytest.mark.parametrize(
    "line",
    ["np.random.default_rng(0)", "rng.random()", "Random(3).random()", "while time.monotonic() < end:\n    pass", "time.sleep(1)"],
)
def test_repeatable_lines_pass(line: str) -> None:
    assert not unrepeatable(line)
