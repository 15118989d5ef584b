"""Memory of a process that ranks for long ends flat (slow: real weights, a thousand calls)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = """
import json, random, sys
from prorank import Reranker

def resident():
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) for line in handle if line.startswith("VmRSS"))

rng = random.Random(0)
words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 5))) for _ in range(3000)]
text = lambda most: " ".join(rng.choices(words, k=rng.randint(1, most)))
reranker = Reranker(dtype=sys.argv[1], device="cpu")
sizes = {}
for call in range(1, 1001):
    reranker.rank(text(8), [text(rng.choice([5, 20, 60])) for _ in range(rng.randint(1, 4))])
    if call in (300, 1000):
        sizes[call] = resident()
print(json.dumps(sizes))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads resident memory from /proc")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_memory_is_flat_after_three_hundred_calls_of_random_lengths(dtype):
    done = subprocess.run([sys.executable, "-c", CALLS, dtype], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    assert sizes["1000"] <= 1.05 * sizes["300"]
