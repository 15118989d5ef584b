"""The recipe's joined documents: the document stands anywhere, whole, and the blocks stay blocks."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups
from recipes.default import joined as recipe
from recipes.default.blocks import QUERIES
from recipes.default.joined import WORDS, joined, joined_blocks

words = st.lists(st.sampled_from("ash birch cedar elm fir oak".split()), min_size=1, max_size=300).map(" ".join)


@given(document=words, others=st.lists(words, min_size=1, max_size=5), seed=st.integers(0, 999))
def test_a_document_stays_whole_and_the_whole_has_the_length_of_a_chunk(document, others, seed):
    made = joined(document, others, Random(seed))
    assert f"\n{document}\n" in f"\n{made}\n"
    assert len(made.split()) <= max(WORDS[1], len(document.split()))
    assert made == document or len(document.split()) < WORDS[1]


def test_it_stands_at_the_start_in_the_middle_and_at_the_end():
    places = set()
    for seed in range(60):
        lines = joined("the answer", ["one of the others " * 8, "another " * 30], Random(seed)).split("\n")
        at = lines.index("the answer")
        places.add("start" if at == 0 else "end" if at == len(lines) - 1 else "middle")
    assert places == {"start", "middle", "end"}


def blocks(count: int) -> list[list[Group]]:
    made = []
    for number in range(count):
        documents = tuple(f"text {number} {i}" for i in range(5))
        labels = tuple(float(i == 0) for i in range(5))
        made.append([Group(f"query {number} {i}", documents, labels, f"s/{number}-{i}", (), (0.5,) * 5) for i in range(QUERIES)])
    return made


def test_a_block_keeps_its_labels_its_scores_and_one_set_of_documents():
    before, after = blocks(40), joined_blocks(blocks(40), 0.5, seed=1)
    changed = 0
    for old, new in zip(before, after, strict=True):
        assert len({group.documents for group in new}) == 1
        assert [(g.query, g.labels, g.teacher, g.query_id) for g in new] == [
            (g.query, g.labels, g.teacher, g.query_id) for g in old
        ]
        assert all(document in text for document, text in zip(old[0].documents, new[0].documents))
        changed += old != new
    assert 10 < changed < 30 and after == joined_blocks(blocks(40), 0.5, seed=1) != joined_blocks(blocks(40), 0.5, seed=2)
    assert joined_blocks(before, 0.0, seed=0) == before


def test_the_command_writes_blocks(tmp_path, monkeypatch):
    source, out = tmp_path / "blocks.jsonl", tmp_path / "joined.jsonl"
    write_groups(source, [group for block in blocks(6) for group in block])
    monkeypatch.setattr("sys.argv", ["joined", str(source), str(out), "--share", "1"])
    recipe.main()
    assert len(read_groups(out)) == 6 * QUERIES and all("\n" in g.documents[0] for g in read_groups(out))
