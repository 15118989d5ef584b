"""MTEB's cross-encoder protocol, on a task made for it.

Predictions are read from the file that MTEB writes, and compared with scores asked for directly.
"""

import json

import mteb
import pytest
from mteb.models.models_protocols import CrossEncoderProtocol

from prorank.integrations.mteb import ProRankCrossEncoder, model_id
from prorank.reranker import Reranker
from tests.integrations.toy_task import CORPUS, INSTRUCTIONS, QUERIES, ToldReranking, ToyReranking


def evaluate(model, task, folder):
    """(nDCG@10, predictions {query: {document: score}}) of a task."""
    result = mteb.evaluate(model, task, cache=None, prediction_folder=folder, show_progress_bar=False, co2_tracker=False)
    written = json.loads(next(folder.glob("*_predictions.json")).read_text())
    return result.task_results[0].get_score(), written["default"]["test"]


@pytest.mark.parametrize("kind", [ToyReranking, ToldReranking])
def test_a_task_runs_and_keeps_our_scores(reranker, tmp_path, kind):
    model = ProRankCrossEncoder(reranker)
    assert isinstance(model, CrossEncoderProtocol)
    measured, predictions = evaluate(model, kind(), tmp_path)
    for key, query in QUERIES.items():
        want = reranker.score([(query, text) for text in CORPUS.values()], INSTRUCTIONS[key] if kind.told else None)
        assert list(predictions[key]) == list(CORPUS)
        assert list(predictions[key].values()) == pytest.approx(want.tolist(), abs=1e-4)
    assert 0 < measured <= 1


def test_results_are_kept_under_name_and_fingerprint(checkpoint, reranker):
    meta = ProRankCrossEncoder(str(checkpoint), device="cpu", dtype="fp32").mteb_model_meta
    assert meta.name == "prorank/tiny-llama" and meta.revision == reranker.fingerprint[:16]
    assert meta.is_cross_encoder and meta.max_tokens == 512 and meta.n_parameters > 0
    in_memory = Reranker.of(reranker.model, reranker.tokenizer, reranker.prompt)
    given = ProRankCrossEncoder(in_memory, name="me/mine", revision="7").mteb_model_meta
    assert (given.name, given.revision) == ("me/mine", "7")
    assert ProRankCrossEncoder(in_memory).mteb_model_meta.revision == "in_memory"
    names = {"a/b": "a/b", "runs/demo/score/model": "prorank/score", "smollm2-135m": "prorank/smollm2-135m"}
    assert {name: model_id(name) for name in names} == names
