"""Rerankers and their results in other processes: pickled, copied, spawned, forked after ranking with two threads.

Each process is ended after a time limit, because a faulty child would hang.
"""

import copy
import inspect
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import prorank.errors
from prorank import Hit, Prompt, Reranker
from prorank.errors import ModelError, ProRankError, ServerError
from prorank.integrations.sentence_transformers import CrossEncoder
from prorank.remote.client import Remote
from prorank.rewards.rules import RuleReward, Rules, counter
from prorank.serve.messages import RequestError
from tests.serving import running
from tests.test_reranker import DOCUMENTS, QUERY, small
from tests.tiny import byte_tokenizer

SECONDS = 120
ERRORS = [one for _, one in inspect.getmembers(prorank.errors, inspect.isclass) if issubclass(one, ProRankError)]


def travelled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [travelled, copy.deepcopy, copy.copy], ids=["pickle", "deepcopy", "copy"])
def test_a_reranker_is_made_again_from_its_name_and_options(copied, calibrated_dir):
    one = Reranker(calibrated_dir, "cpu", dtype="fp32")
    hits = one.rank(QUERY, DOCUMENTS)
    other = copied(one)
    assert other is not one and other.rank(QUERY, DOCUMENTS) == hits and hits[0].probability is not None
    assert (other.name, other.fingerprint) == (one.name, one.fingerprint) and other.cuts.total == len(DOCUMENTS)


def test_options_of_methods_are_pickled(tiny_llama_dir):
    assert travelled(travelled(Reranker(tiny_llama_dir, max_length=150))).encoder.longest == 150
    one = Reranker(tiny_llama_dir, dtype="fp32", method="setwise", k=3, branching=2)
    other = travelled(one)
    assert other.strategy.method == one.strategy.method and other.rank(QUERY, DOCUMENTS) == one.rank(QUERY, DOCUMENTS)


def test_a_relative_folder_is_found_from_elsewhere_and_keeps_its_name(tiny_llama_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_llama_dir.parent)
    data = pickle.dumps(Reranker(tiny_llama_dir.name, dtype="fp32"))
    monkeypatch.chdir(tmp_path)
    other = pickle.loads(data)
    assert other.name == tiny_llama_dir.name and len(other.rank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
    assert len(pickle.dumps(other)) < 2000  # no weights


def test_the_default_model_is_pickled(standin):
    """As `pickle.loads(pickle.dumps(Reranker()))`."""
    assert travelled(Reranker()).rank(QUERY, DOCUMENTS) == Reranker().rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("copied", [travelled, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_model_in_memory_is_refused_with_a_remedy(copied):
    with pytest.raises(ModelError, match="around a model in memory cannot be pickled or copied; save the model"):
        copied(small())


def test_an_unpickled_remote_connects_again():
    with running(small()) as server, Remote(server.url, "jina", patience=5) as one, travelled(one) as other:
        assert (other.url, other.dialect, other.patience) == (one.url, "jina", 5)
        assert other.rank(QUERY, DOCUMENTS) == one.rank(QUERY, DOCUMENTS)


def test_results_of_a_ranking_are_pickled(tiny_llama_dir):
    """Hits, prompts, counters, and what holds a Reranker."""
    one = Reranker(tiny_llama_dir, dtype="fp32")
    hits = one.rank(QUERY, [{"text": "the garden", "id": 3}])
    assert travelled(hits) == hits and isinstance(travelled(hits)[0], Hit)
    for value in (Prompt.preset("mxbai"), one.cuts, one.cost, hits[0]):
        assert travelled(value) == value == copy.deepcopy(value)
    pairs = [(QUERY, text) for text in DOCUMENTS]
    np.testing.assert_array_equal(travelled(CrossEncoder(one)).predict(pairs), CrossEncoder(one).predict(pairs))


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_pickled_with_their_message(kind):
    """A pool of processes hands an exception on by pickling it."""
    error = kind("what is wrong", 503) if issubclass(kind, ServerError) else kind("what is wrong")
    for other in (travelled(error), copy.copy(error)):
        assert type(other) is kind and str(other) == "what is wrong" and vars(other) == vars(error)


def test_a_request_error_is_pickled():
    error = RequestError("invalid", "what is wrong", "query", [{"loc": ["body"]}], retry_after=3)
    other = travelled(error)
    assert str(other) == str(error) and vars(other) == vars(error)


def test_a_reward_is_pickled():
    """Trainers start processes, too."""
    reward = travelled(RuleReward(Rules(), counter(byte_tokenizer()), only=["acc_weight"], eos=2))
    assert reward(completions=["<think>so</think><answer>yes</answer>"], label=[1]) == [0.5]


@pytest.fixture(scope="module")
def ranked(tiny_llama_dir):
    """A Reranker that has ranked with two threads, so that OpenMP has a pool of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    one = Reranker(tiny_llama_dir, device="cpu", dtype="fp32")
    one.rank(QUERY, [f"{text} {i}" for i in range(30) for text in DOCUMENTS])
    yield one
    torch.set_num_threads(before)


def in_fork(work) -> str:
    """What `work` returns in a forked child, as text; "hangs" if nothing comes."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    try:
        return os.read(reader, 10_000).decode() if select.select([reader], [], [], SECONDS)[0] else "hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def order(hits) -> list[int]:
    return [hit.index for hit in hits]


@forks
def test_a_forked_child_ranks(ranked):
    """Gunicorn --preload, Celery."""
    want = str(order(ranked.rank(QUERY, DOCUMENTS * 20)))
    assert in_fork(lambda: order(ranked.rank(QUERY, DOCUMENTS * 20))) == want
    assert in_fork(lambda: in_fork(lambda: order(ranked.rank(QUERY, DOCUMENTS * 20)))) == want  # a child of a child
    assert order(ranked.rank(QUERY, DOCUMENTS * 20)) == eval(want)  # and the parent goes on
    assert torch.get_num_threads() == 2


@forks
def test_a_forked_child_answers_async_calls_and_loads_others(ranked, tiny_llama_dir):
    import asyncio

    want = str(order(asyncio.run(ranked.arank(QUERY, DOCUMENTS))))
    assert in_fork(lambda: order(asyncio.run(ranked.arank(QUERY, DOCUMENTS)))) == want
    assert in_fork(lambda: order(Reranker(tiny_llama_dir, device="cpu", dtype="fp32").rank(QUERY, DOCUMENTS))) == want
    assert in_fork(lambda: order(travelled(ranked).rank(QUERY, DOCUMENTS))) == want
    assert in_fork(lambda: len(ranked.likelihood([QUERY], [DOCUMENTS])[0])) == str(len(DOCUMENTS))


@forks
def test_a_fork_waits_for_a_running_ranking(ranked, monkeypatch):
    """Another thread's lock would stay locked in the child for ever."""
    at_work, go_on = threading.Event(), threading.Event()
    plain = ranked.strategy.score

    def slow(*args):
        at_work.set()
        assert go_on.wait(SECONDS)
        return plain(*args)

    monkeypatch.setattr(ranked.strategy, "score", slow)
    thread = threading.Thread(target=ranked.rank, args=(QUERY, DOCUMENTS))
    thread.start()
    assert at_work.wait(SECONDS)
    monkeypatch.setattr(ranked.strategy, "score", plain)
    threading.Timer(0.2, go_on.set).start()
    assert in_fork(lambda: len(ranked.rank(QUERY, DOCUMENTS))) == str(len(DOCUMENTS))
    thread.join(SECONDS)


@forks
def test_a_forked_child_reports_that_a_gpu_does_not_work(ranked, monkeypatch):
    monkeypatch.setattr(ranked, "device", torch.device("cuda"))
    assert "ModelError: " in (said := in_fork(lambda: ranked.rank(QUERY, DOCUMENTS)))
    assert "a model on cuda does not work in a forked process; load it in that process" in said


@forks
def test_a_forked_child_uses_plain_instead_of_compiled_steps(ranked):
    """Compiled steps ask OpenMP for the parent's number of threads, whatever the child has."""
    before = ranked.runtime.engine.kernels
    try:
        ranked.runtime.engine.kernels = marked = copy.copy(before)
        assert in_fork(lambda: ranked.runtime.engine.kernels is marked) == "False"
    finally:
        ranked.runtime.engine.kernels = before


def ranks(reranker, sent) -> None:
    sent.put(order(reranker.rank(QUERY, DOCUMENTS)))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_multiprocessing_starts_processes_that_rank(ranked, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {start}")
    context = multiprocessing.get_context(start)
    sent = context.Queue()
    process = context.Process(target=ranks, args=(ranked, sent), daemon=True)
    process.start()
    try:
        assert sent.get(timeout=SECONDS) == order(ranked.rank(QUERY, DOCUMENTS))
    finally:
        process.kill()


@pytest.mark.slow
def test_joblib_carries_a_reranker_to_its_workers(tiny_llama_dir):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    one = Reranker(tiny_llama_dir, device="cpu", dtype="fp32")
    found = joblib.Parallel(n_jobs=2, timeout=SECONDS)(joblib.delayed(one.rank)(QUERY, DOCUMENTS) for _ in range(2))
    assert [order(hits) for hits in found] == [order(one.rank(QUERY, DOCUMENTS))] * 2


def test_importing_changes_no_fork():
    """A process that has made no Reranker keeps its threads in its children."""
    code = (
        "import os, torch; torch.set_num_threads(2)\nimport prorank.reranker\n"
        "child = os.fork()\nif not child: os._exit(torch.get_num_threads())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    root = Path(prorank.__file__).parent.parent
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, cwd=root)
    assert said.stdout.strip() == "2", said.stderr
