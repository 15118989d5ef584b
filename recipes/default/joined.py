"""Blocks in whose documents the answer stands anywhere: documents joined with others of the same source.

A model that was trained on short documents expects the answer at the beginning. Here a document stands at a random place among
random documents of its source, up to a chunk's length, and keeps its teacher scores and labels.

    python -m recipes.default.joined data/lists/second.jsonl data/lists/joined.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups

from .blocks import QUERIES, sources_of

WORDS = (100, 230)  # range of a joined document's length; 230 words are about 320 tokens, a chunk


def joined(document: str, others: Sequence[str], draw: Random) -> str:
    """Return a document at a random place among others, with a random number of words in WORDS, or as it is if it is longer."""
    length, around = draw.randint(*WORDS), []
    left = length - len(document.split())
    while left > 0 and len(around) < 20:
        words = draw.choice(others).split()[:left]
        around.append(" ".join(words))
        left -= len(words)
    at = draw.randint(0, len(around))
    return "\n".join([*around[:at], document, *around[at:]])


def joined_blocks(blocks: Sequence[Sequence[Group]], share: float, seed: int) -> list[list[Group]]:
    """Return the blocks, a share of them with joined documents. The documents of a block stay the same for all of its queries."""
    draw = Random(f"joined/{seed}")
    sources = sources_of([group for block in blocks for group in block])
    texts = {name: sorted({text for group in groups for text in group.documents}) for name, groups in sources.items()}
    made = []
    for block in blocks:
        if draw.random() < share:
            name = block[0].query_id.partition("/")[0]
            shown = {document: joined(document, texts[name], draw) for document in block[0].documents}
            block = [replace(group, documents=tuple(shown[document] for document in group.documents)) for group in block]
        made.append(list(block))
    return made


def main() -> None:
    """Write the blocks from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("blocks", type=Path, help="blocks of blocks.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the blocks whose documents are joined")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    groups = read_groups(options.blocks)
    blocks = [groups[i : i + QUERIES] for i in range(0, len(groups), QUERIES)]
    write_groups(options.out, [group for block in joined_blocks(blocks, options.share, options.seed) for group in block])


if __name__ == "__main__":
    main()
