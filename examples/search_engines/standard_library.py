"""The documents of the examples: functions of Python's standard library with their docstrings. Put your own in their place.

QUESTIONS are what people ask, with the functions that answer them; `compare.py` measures every engine with them.
"""

import importlib
import inspect
import os.path

MODULES = (
    "bisect calendar difflib fnmatch functools getpass glob hashlib heapq itertools math os os.path platform random secrets shutil "
    "statistics string subprocess tempfile textwrap time urllib.parse urllib.request zipfile"
).split()
QUESTIONS = {
    "delete a folder and everything inside it": {"shutil.rmtree"},
    "create a folder together with its missing parent folders": {"os.makedirs"},
    "where on the disk is a program installed": {"shutil.which"},
    "seconds that passed since 1970": {"time.time", "time.time_ns"},
    "pick several different elements by chance": {"random.sample"},
    "test whether a number is not a number": {"math.isnan"},
    "suggest the correct spelling of a misspelled word": {"difflib.get_close_matches"},
    "extract a zip or tar file": {"shutil.unpack_archive"},
    "the five biggest values of a list": {"heapq.nlargest"},
    "remember results of a function so that it is not computed again": {"functools.cache", "functools.lru_cache"},
    "free space left on a drive": {"shutil.disk_usage"},
    "ask for a password without showing what is typed": {"getpass.getpass"},
    "take away the indentation that all lines share": {"textwrap.dedent"},
    "run a program and get what it prints": {"subprocess.check_output", "subprocess.getoutput", "subprocess.run"},
    "wait a while before going on": {"time.sleep"},
    "middle value of some numbers": {"statistics.median"},
    "split a web address into its parts": {"urllib.parse.urlparse", "urllib.parse.urlsplit"},
    "go through several lists one after the other": {"itertools.chain"},
    "folder for temporary files that vanishes when I am done": {"tempfile.TemporaryDirectory"},
    "is it a leap year": {"calendar.isleap"},
}


def documents() -> list[dict[str, str]]:
    """Return the public functions and classes of MODULES with two paragraphs of docstring: {"id", "title", "text"}."""
    found = []
    for module in map(importlib.import_module, MODULES):
        for name in sorted(getattr(module, "__all__", vars(module))):
            value = getattr(module, name)
            if callable(value) and not name.startswith("_") and (text := inspect.getdoc(value)):
                title = f"{'os.path' if module is os.path else module.__name__}.{name}"
                found.append({"id": title, "title": title, "text": "\n\n".join(text.split("\n\n")[:2])})
    return found


def show(query: str, before: list[dict], after: list[tuple[float, dict]], top: int = 5) -> None:
    """Print the engine's order beside the reranker's: score, title, and the place that the document had before."""
    places = {document["id"]: place for place, document in enumerate(before, 1)}
    print(f"{query}\n\n   {'search engine':31} reranked")
    for place, (old, (score, new)) in enumerate(zip(before, after[:top]), 1):
        print(f"{place}. {old['title']:31} {score:+6.2f} {new['title']} (was {places.get(new['id'], f'below {len(before)}')})")
