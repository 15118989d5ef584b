"""All training tags of semanlink as lists with all texts that have the tag. The last training step of the default model uses them.

Similar tags share texts, so a list with only two texts of a tag would have false negatives in a block.

    python -m recipes.default.tags data/lists

Writes tags.jsonl next to train.jsonl. The tags of dev.jsonl and calibration.jsonl are excluded. Takes half a minute on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prorank.data.formats import read_groups, write_groups

from .lists import encoder, groups_of, semanlink_tags, source_of


def main() -> None:
    """Write the lists from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", type=Path, help="folder of the lists that lists.py made")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    collection = semanlink_tags()
    queries, texts = len(collection.queries), len(collection.corpus)
    held_out_ids = {group.query_id for part in ("dev", "calibration") for group in read_groups(options.lists / f"{part}.jsonl")}
    groups = groups_of(source_of(collection, queries, encoder(), options.seed), options.seed, relevant=texts)
    kept = [group for group in groups if group.query_id not in held_out_ids]
    write_groups(options.lists / "tags.jsonl", kept)
    print(f"tags.jsonl: {len(kept)} lists of {len(groups)}, {sum(sum(group.labels) for group in kept):.0f} labels")


if __name__ == "__main__":
    main()
