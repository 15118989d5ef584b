"""A reranking task for MTEB, made here: no network.

MTEB scores what the model returns; a task's candidates are its `top_ranked`.
"""

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

CORPUS = {"d0": "the garden is near the river", "d1": "bread", "d2": "coffee in the morning", "d3": "a castle"}
QUERIES = {"q0": "where is the garden", "q1": "what to drink"}
INSTRUCTIONS = {"q0": "find places", "q1": "find drinks"}
RELEVANT = {"q0": {"d0": 1}, "q1": {"d2": 1}}


class ToyReranking(AbsTaskRetrieval):
    """Two queries with four candidates each; with `told` the queries bring instructions."""

    told = False
    metadata = TaskMetadata(
        name="ToyReranking", description="toy", type="Reranking", main_score="ndcg_at_10", category="t2t", eval_splits=["test"],
        eval_langs=["eng-Latn"], dataset={"path": "none", "revision": "1"}, modalities=["text"], reference=None, date=None,
        domains=[], task_subtypes=[], license=None, annotations_creators="derived", dialect=[], sample_creation="created",
        bibtex_citation="",
    )  # fmt: skip

    def load_data(self, num_proc: int | None = None, **_) -> None:
        """Put the data where the task expects them."""
        told = {key: {"instruction": INSTRUCTIONS[key]} if self.told else {} for key in QUERIES}
        rows = [{"id": key, "text": text, **told[key]} for key, text in QUERIES.items()]
        split = RetrievalSplitData(
            corpus=Dataset.from_list([{"id": key, "text": text, "title": ""} for key, text in CORPUS.items()]),
            queries=Dataset.from_list(rows),
            relevant_docs=RELEVANT,
            top_ranked={key: list(CORPUS) for key in QUERIES},
        )
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


class ToldReranking(ToyReranking):
    """The same with instructions."""

    told = True
    metadata = ToyReranking.metadata.model_copy(update={"name": "ToldReranking"})
