"""Loading from several threads: loads take turns, and one that fails never breaks the next.

Libraries that load models patch the process while they do; two at once undo each other's patches in the wrong order.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from prorank.errors import ModelError
from prorank.rank.bi_encoder import bi_encoder
from prorank.reranker import Reranker
from prorank.utils.loading_lock import LOADING, one_at_a_time
from tests.test_model import write_gguf
from tests.tiny import byte_tokenizer, save_adapter, tiny_llama

PAIRS = [("garden", "we saw the garden today"), ("garden", "bread")]
COUNT = 8
COLD = """
import sys, threading
start, scores = threading.Barrier(8), [None] * 8
def work(place):
    start.wait()
    from prorank import Reranker
    reranker = Reranker(sys.argv[1], device="cpu", dtype="fp32")
    scores[place] = reranker.score([("garden", "we saw the garden today"), ("garden", "bread")])
threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(*sorted({str(row.tolist()) for row in scores}), sep=chr(10))
"""


def together(work: Callable[[int], Any]) -> list[Any]:
    """What `work(place)` returns or raises in so many threads that begin at once."""
    start, found = threading.Barrier(COUNT), [None] * COUNT

    def run(place: int) -> None:
        start.wait()
        try:
            found[place] = work(place)
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(COUNT)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return found


@pytest.fixture(scope="module")
def models(tiny_llama_dir, tiny_qwen2_dir, tmp_path_factory) -> list[Path]:
    return [tiny_llama_dir, tiny_qwen2_dir, save_adapter(tmp_path_factory.mktemp("adapter") / "a", tiny_llama_dir)]


def test_eight_in_eight_threads_score_as_one_does(models):
    """Warm: of several checkpoints, in two dtypes."""
    kinds = [(models[place % 3], ("fp32", "bf16")[place % 2]) for place in range(COUNT)]
    want = [Reranker(model, device="cpu", dtype=dtype).score(PAIRS) for model, dtype in kinds]
    found = together(lambda place: Reranker(kinds[place][0], device="cpu", dtype=kinds[place][1]).score(PAIRS))
    for one, other in zip(found, want):
        np.testing.assert_array_equal(one, other)


def test_eight_in_a_fresh_process_with_an_empty_cache(tmp_path):
    """Cold: nothing is imported yet, and the weights still have to be converted."""
    import os

    tokenizer = byte_tokenizer("smollm")
    file = write_gguf(tmp_path / "x.gguf", tiny_llama(tokenizer), tokenizer)
    env = {**os.environ, "PRORANK_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", COLD, str(file)], env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1 and done.stdout.startswith("[") and "Traceback" not in done.stderr


def test_loads_that_fail_break_no_other(models, tmp_path):
    """A damaged checkpoint among sound ones, in threads and after them."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(models[1], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    want = Reranker(models[0], device="cpu", dtype="fp32").score(PAIRS)
    made = lambda place: Reranker([models[0], broken][place % 2], device="cpu", dtype="fp32").score(PAIRS)  # noqa: E731
    for place, one in enumerate(together(made)):
        assert isinstance(one, ModelError) if place % 2 else np.array_equal(one, want), one
    np.testing.assert_array_equal(made(0), want)
    assert torch.get_default_dtype() == torch.float32


def counted(monkeypatch, owner: Any, name: str, inside: list[int]) -> None:
    """Have `owner.name` note how many calls of such are under way."""
    real = getattr(owner, name)

    def call(*arguments, **options):
        inside.append(inside[-1] + 1)
        time.sleep(0.01)  # room for another thread to come in
        try:
            return real(*arguments, **options)
        finally:
            inside.append(inside[-1] - 1)

    monkeypatch.setattr(owner, name, call)


def test_no_two_calls_of_the_libraries_overlap(models, tmp_path, monkeypatch):
    """Tokenizers, models, adapters and bi-encoders wait for each other."""
    import peft
    import sentence_transformers

    folder = tmp_path / "encoder"
    sentence_transformers.SentenceTransformer(str(models[0]), device="cpu").save(str(folder))
    inside = [0]
    counted(monkeypatch, transformers.AutoTokenizer, "from_pretrained", inside)
    counted(monkeypatch, peft.PeftModel, "from_pretrained", inside)
    work = lambda place: bi_encoder(f"bi-encoder:{folder}", "cpu") if place == 3 else Reranker(models[place % 3], device="cpu")  # noqa: E731
    found = together(work)
    assert not [one for one in found if isinstance(one, Exception)], found
    assert max(inside) == 1


def test_the_lock_is_left_when_a_call_fails():
    @one_at_a_time
    def failing():
        raise ValueError

    with pytest.raises(ValueError):
        failing()

    def taken(place: int) -> bool:
        got = LOADING.acquire(timeout=60)
        LOADING.release()
        return got

    assert together(taken) == [True] * COUNT
