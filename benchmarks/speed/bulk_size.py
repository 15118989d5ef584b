"""Size a bulk job from measured rates: machine hours, machines for a deadline, shards and bytes.

    python -m benchmarks.speed.bulk_size --pairs 1e9 --hours 24 --rate "H200, passages=853"

A rate is NAME=PAIRS_PER_SECOND of one machine, as `benchmarks.speed.bulk` or `score_vs_peers` prints it. Machines work without each
other, so a job of n machines takes an n-th of the time. Prints one table and the bytes.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple


class Size(NamedTuple):
    """Machine hours of a job, machines for the deadline, and minutes that one shard takes."""

    machine_hours: float
    machines: int
    shard_minutes: float


def size_of(pairs: float, rate: float, hours: float, shard_rows: int) -> Size:
    """Return the size of a job.

    Args:
        pairs: number of pairs.
        rate: pairs per second of one machine.
        hours: deadline.
        shard_rows: rows of a shard.
    """
    machine_hours = pairs / rate / 3600
    return Size(machine_hours, math.ceil(machine_hours / hours), shard_rows / rate / 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=float, default=1e9)
    parser.add_argument("--hours", type=float, default=24, help="deadline")
    parser.add_argument("--rate", action="append", required=True, metavar="NAME=RATE", help="pairs per second of one machine")
    parser.add_argument("--shard-rows", type=int, default=100_000)
    parser.add_argument("--bytes-read", type=float, help="bytes of a pair in the input")
    parser.add_argument("--bytes-written", type=float, help="bytes of a pair in the output")
    options = parser.parse_args()
    print(f"| {options.pairs:.0e} pairs | pairs/s | machine hours | machines for {options.hours:g} hours | minutes of a shard |")
    print("|---|---|---|---|---|")
    for text in options.rate:
        name, _, rate = text.rpartition("=")
        size = size_of(options.pairs, float(rate), options.hours, options.shard_rows)
        print(f"| {name} | {rate} | {size.machine_hours:,.0f} | {size.machines:,} | {size.shard_minutes:,.1f} |")
    print(f"\n{math.ceil(options.pairs / options.shard_rows):,} shards of {options.shard_rows:,} rows")
    for name, size in (("read", options.bytes_read), ("written", options.bytes_written)):
        if size:
            print(f"{options.pairs * size / 1e9:,.0f} GB {name}, {options.shard_rows * size / 1e6:,.1f} MB a shard")


if __name__ == "__main__":
    main()
