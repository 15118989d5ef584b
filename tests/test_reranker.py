"""Reranker: scores against plain transformers, their independence of neighbours, ranking rules, and `prorank rerank`.

Documents share a row and the query's tokens, so every test of a score compares with one prompt alone in one forward.
"""

import io
import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prorank.cli import command_line as cli
from prorank.data.formats import read_run
from prorank.engine.heads import answer_rows, last_hidden, log_odds
from prorank.engine.modules import cast_weights
from prorank.engine.packing import batches_of, collate, pack, packs_of
from prorank.errors import DataError, ModelError, PromptError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Hit, Reranker
from tests.tiny import WORDS, byte_tokenizer, save_tiny, tiny_llama, tiny_qwen2

QUERY = "where is the garden?"
DOCUMENTS = ["the garden is near the river", "", "another river, and then a castle " * 6, " 42\n", "Grüße 🦊", "the old doctor"]
sentences = st.lists(st.sampled_from([*WORDS, "42", "é", "\n"]), max_size=40).map(" ".join)


def small(kind: str = "llama", dtype=torch.float32, **changes) -> Reranker:
    tokenizer = byte_tokenizer({"llama": "smollm", "qwen2": "qwen2"}[kind])
    model = {"llama": tiny_llama, "qwen2": tiny_qwen2}[kind](tokenizer)
    return Reranker.of(cast_weights(model, dtype), tokenizer, Prompt.preset("prorank", **{"max_length": 192, **changes}))


RERANKERS = {kind: small(kind) for kind in ("llama", "qwen2")}


def alone(reranker: Reranker, query: str, document: str, instruction: str | None = None) -> tuple[float, torch.Tensor]:
    """Score and logits by the model's own forward over one prompt."""
    ids = reranker.encoder.encode(query, document, instruction).ids
    with torch.no_grad():
        logits = reranker.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
    no, yes = reranker.encoder.answer_ids
    return float(logits[yes] - logits[no]), logits


@pytest.mark.parametrize("kind", list(RERANKERS))
@pytest.mark.parametrize("instruction", [None, "find places"])
def test_scores_equal_plain_transformers(kind, instruction):
    reranker = RERANKERS[kind]
    want = [alone(reranker, QUERY, document, instruction)[0] for document in DOCUMENTS]
    assert np.ptp(want) > 0.05
    got = reranker.score([(QUERY, document) for document in DOCUMENTS], instruction)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("kind", list(RERANKERS))
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_scores_do_not_depend_on_batch_neighbours_or_order(kind, data):
    reranker = RERANKERS[kind]
    queries = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2))
    lists = [data.draw(st.lists(sentences, max_size=4)) for _ in queries]
    size = data.draw(st.sampled_from([None, 1, 2, 3, 5]))
    got = reranker.score_lists(queries, lists, batch_size=size)
    assert [len(row) for row in got] == [len(some) for some in lists]
    for query, some, row in zip(queries, lists, got):
        turned = reranker.score_lists([query], [some[::-1]])[0][::-1]
        np.testing.assert_allclose(row, turned, atol=1e-4)
        if some:
            assert row[0] == pytest.approx(alone(reranker, query, some[0])[0], abs=1e-4)


def test_score_lists_score_and_rank_many_agree():
    reranker = RERANKERS["llama"]
    queries, lists = ["garden", "river", "horse"], [DOCUMENTS, DOCUMENTS[:2], []]
    rows = reranker.score_lists(queries, lists)
    pairs = [(query, document) for query, some in zip(queries, lists) for document in some]
    mixed = np.random.default_rng(0).permutation(len(pairs))
    np.testing.assert_allclose(reranker.score([pairs[i] for i in mixed]), np.concatenate(rows)[mixed], atol=1e-5)
    many = reranker.rank_many(queries, lists)
    for query, some, hits in zip(queries, lists, many):
        one = reranker.rank(query, some)
        assert [hit.index for hit in hits] == [hit.index for hit in one]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in one], atol=1e-5)


def test_rank_puts_the_best_first_and_returns_all():
    hits = RERANKERS["qwen2"].rank(QUERY, DOCUMENTS)
    scores = RERANKERS["qwen2"].score([(QUERY, document) for document in DOCUMENTS])
    assert [hit.index for hit in hits] == list(np.argsort(-scores))
    assert [hit.document for hit in hits] == [DOCUMENTS[hit.index] for hit in hits]
    assert all(isinstance(hit, Hit) and type(hit.index) is int and type(hit.score) is float for hit in hits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_keep_the_order_of_the_input(dtype):
    reranker = small("llama", dtype)
    hits = reranker.rank(QUERY, ["the garden", "river " * 30, "the garden", *["the castle"] * 25, "the garden"])
    for text in ("the garden", "the castle"):
        same = [hit for hit in hits if hit.text == text]
        assert len({hit.score for hit in same}) == 1
        assert [hit.index for hit in same] == sorted(hit.index for hit in same)


def test_top_k_and_min_score():
    reranker = RERANKERS["llama"]
    hits = reranker.rank(QUERY, DOCUMENTS)
    assert reranker.rank(QUERY, DOCUMENTS, top_k=2) == hits[:2]
    assert reranker.rank(QUERY, DOCUMENTS, top_k=99) == hits
    assert reranker.rank(QUERY, DOCUMENTS, min_score=hits[2].score) == hits[:3]
    assert reranker.rank(QUERY, DOCUMENTS, top_k=1, min_score=hits[2].score) == hits[:1]
    assert reranker.rank(QUERY, DOCUMENTS, min_score=1e9) == []
    with pytest.raises(DataError, match="top_k must be at least 1, not 0"):
        reranker.rank(QUERY, DOCUMENTS, top_k=0)


def test_dicts_are_kept_and_read_as_title_and_text():
    first = {"id": 7, "title": "the garden", "text": "near the river", "more": [1]}
    documents = [first, {"text": "a castle", "title": None}, "plain"]
    hits = RERANKERS["llama"].rank(QUERY, documents)
    assert all(hit.document is documents[hit.index] for hit in hits)
    assert {hit.text for hit in hits} == {"the garden near the river", "a castle", "plain"}
    same = RERANKERS["llama"].rank(QUERY, ["the garden near the river", "a castle", "plain"])
    assert [(hit.index, hit.score) for hit in hits] == [(hit.index, hit.score) for hit in same]


def test_empty_lists_and_texts():
    reranker = RERANKERS["llama"]
    assert reranker.rank(QUERY, []) == [] and reranker.rank_many([], []) == []
    assert reranker.score([]).shape == (0,) and reranker.score_lists([], []) == []
    assert [len(row) for row in reranker.score_lists(["a", "b"], [[], []])] == [0, 0]
    assert reranker.likelihood(["a"], [[]])[0].shape == (0,)
    assert reranker.diagnose(["a"], [[]]).hidden.shape == (0, 64)
    assert np.isfinite(reranker.rank(QUERY, [""])[0].score)
    assert np.isfinite(reranker.likelihood([QUERY], [[""]])[0]).all()


def test_generators_and_arrays_of_documents_are_fine():
    hits = RERANKERS["llama"].rank(QUERY, (text for text in DOCUMENTS))
    assert [hit.index for hit in hits] == [hit.index for hit in RERANKERS["llama"].rank(QUERY, tuple(DOCUMENTS))]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r: r.rank("", DOCUMENTS), "query 0 is ''; expected a text that is not empty"),
        (lambda r: r.rank(" \n", DOCUMENTS), "expected a text that is not empty"),
        (lambda r: r.rank(None, DOCUMENTS), "query 0 is None"),
        (lambda r: r.rank(QUERY, "one document"), "documents of query 0 must be a list, not str 'one document'"),
        (lambda r: r.rank(QUERY, {"text": "one"}), "documents of query 0 must be a list, not dict"),
        (lambda r: r.rank(QUERY, None), "documents of query 0 must be a list, not NoneType"),
        (lambda r: r.rank(QUERY, ["fine", 3]), "document 1 of query 0 must be a string or a dict with a string 'text', not int 3"),
        (lambda r: r.rank(QUERY, [{"title": "x"}]), "document 0 of query 0 must be a string or a dict"),
        (lambda r: r.rank(QUERY, [{"text": None}]), "document 0 of query 0 must be a string or a dict"),
        (lambda r: r.rank(QUERY, DOCUMENTS, batch_size=0), "batch_size must be at least 1, not 0"),
        (lambda r: r.rank_many("query", [DOCUMENTS]), "queries must be a list, not str"),
        (lambda r: r.rank_many(["a", "b"], [DOCUMENTS]), "2 queries but 1 lists of documents"),
        (lambda r: r.score(["ab"]), "pair 0 is 'ab'; expected (query, document)"),
        (lambda r: r.score([("a", "b"), ("a",)]), "pair 1 is"),
        (lambda r: r.score([(1, "b")]), "pair 0 is"),
        (lambda r: r.score(("a b", "c d")), "pair 0 is 'a b'"),
    ],
)
def test_wrong_input_is_named_before_any_forward(call, message, monkeypatch):
    monkeypatch.setattr("prorank.rank.model_runtime.last_hidden", lambda *_: pytest.fail("a forward ran"))
    with pytest.raises(DataError) as error:
        call(RERANKERS["llama"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_weights_that_give_no_numbers_are_an_error():
    reranker = small("llama")
    reranker.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="scores are not finite"):
        reranker.rank(QUERY, DOCUMENTS)


def test_cuts_are_counted_and_max_length_is_obeyed(tiny_llama_dir):
    reranker = Reranker(tiny_llama_dir, dtype="fp32", max_length=110, long_documents="truncate")
    assert reranker.encoder.longest == 110
    reranker.rank(QUERY, DOCUMENTS)
    assert (reranker.cuts.total, reranker.cuts.documents, reranker.cuts.queries) == (6, 1, 0)
    reranker.rank("garden " * 200, ["river"])
    assert (reranker.cuts.total, reranker.cuts.documents, reranker.cuts.queries) == (7, 1, 1)
    assert reranker.score([(QUERY, "garden " * 500)])[0] == reranker.score([(QUERY, "garden " * 600)])[0]
    with pytest.raises(PromptError, match="raise max_length"):
        Reranker(tiny_llama_dir, max_length=64)


@pytest.mark.parametrize("kind", list(RERANKERS))
def test_diagnosis_agrees_with_the_models_own_logits(kind):
    reranker = RERANKERS[kind]
    queries, lists = [QUERY, "castle"], [DOCUMENTS, DOCUMENTS[:3]]
    got, n = reranker.diagnose(queries, lists), 9
    assert got.scores.shape == got.format_mass.shape == got.argmax_is_answer.shape == got.answer.shape == (n,)
    assert got.hidden.shape == (n, 64) and got.hidden.dtype == got.scores.dtype == np.float32
    np.testing.assert_allclose(got.scores, np.concatenate(reranker.score_lists(queries, lists)), atol=1e-5)
    no, yes = reranker.encoder.answer_ids
    pairs = [(query, document) for query, some in zip(queries, lists) for document in some]
    head = reranker.model.get_output_embeddings().weight.detach().numpy()
    for i, (query, document) in enumerate(pairs):
        score, logits = alone(reranker, query, document)
        assert got.scores[i] == pytest.approx(score, abs=1e-4)
        assert got.format_mass[i] == pytest.approx(float(logits.softmax(-1)[[no, yes]].sum()), abs=1e-5)
        assert got.argmax_is_answer[i] == (int(logits.argmax()) in (no, yes))
        assert got.answer[i] == int(score > 0)
        np.testing.assert_allclose(head @ got.hidden[i], logits.numpy(), atol=1e-3)


def test_diagnosis_sees_a_model_that_answers():
    reranker = small("qwen2")  # its output matrix is its own, so two rows can be made to win
    with torch.no_grad():
        hidden = reranker.diagnose([QUERY], [["the garden"]]).hidden[0]
        reranker.model.lm_head.weight[reranker.encoder.answer_ids[1]] = torch.tensor(hidden)
    got = Reranker.of(reranker.model, reranker.tokenizer, reranker.prompt).diagnose([QUERY], [["the garden"]])
    assert got.argmax_is_answer.all() and got.answer.tolist() == [1] and got.format_mass[0] > 0.9


@pytest.mark.parametrize("kind", list(RERANKERS))
def test_likelihood_equals_a_computation_by_hand(kind):
    reranker, tokenizer = RERANKERS[kind], RERANKERS[kind].tokenizer
    queries, lists = ["garden", "where is the old castle?"], [DOCUMENTS[:5], DOCUMENTS]
    heard = []
    for query, some, row in zip(queries, lists, reranker.likelihood(queries, lists, heard.append)):
        tail = tokenizer(" " + query, add_special_tokens=False)["input_ids"]
        for document, got in zip(some, row):
            head = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Document: ", document, "\nQuery:")]
            ids = torch.tensor([[*head[0], *head[1], *head[2], *tail]])
            with torch.no_grad():
                steps = reranker.model(input_ids=ids).logits[0].log_softmax(-1)
            want = [float(steps[-len(tail) - 1 + i, token]) for i, token in enumerate(tail)]
            assert got == pytest.approx(np.mean(want), abs=1e-4)
    assert sum(heard) == 11


def test_likelihood_cuts_the_document_and_long_queries():
    reranker = small("llama", max_length=128)
    rows = reranker.likelihood(["garden", "garden " * 400], [["river " * 500, "river " * 600], ["river"]])
    assert rows[0][0] == pytest.approx(rows[0][1], abs=1e-5) and np.isfinite(rows[1]).all()


@pytest.mark.parametrize("kind", list(RERANKERS))
def test_shared_prefixes_score_as_whole_prompts_do(kind):
    reranker = RERANKERS[kind]
    prompts = reranker.encoder.encode_many(QUERY, DOCUMENTS)
    rows, bias = answer_rows(reranker.model, reranker.encoder.answer_ids)
    scores = []
    for share in (True, False):
        row = pack(prompts, range(len(prompts)), share)
        with torch.no_grad():
            batch = collate([row, pack(prompts[:1], [0], share)], reranker.tokenizer.pad_token_id)
            scores.append(log_odds(last_hidden(reranker.model, batch), rows, bias).numpy())
        assert len(row) == sum(len(p.ids) for p in prompts) - share * (len(prompts) - 1) * prompts[0].document_start
    np.testing.assert_allclose(*scores, atol=1e-4)


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(0, 60), max_size=20), most=st.integers(1, 6), tokens=st.integers(50, 400))
def test_packs_hold_each_prompt_once_within_their_limits(lengths, most, tokens):
    prompt = RERANKERS["llama"].encoder
    prompts = prompt.encode_many("garden", ["x" * n for n in lengths])
    packs = list(packs_of(prompts, range(len(prompts)), tokens, most))
    assert sorted(owner for one in packs for owner in one.owners) == list(range(len(prompts)))
    for one in packs:
        assert len(one.owners) <= most and (len(one) <= tokens or len(one.owners) == 1)
        for owner, last, segment in zip(one.owners, one.answers, range(1, len(one.owners) + 1)):
            own = [i for i, s in enumerate(one.segments) if s in (0, segment)]
            assert [one.ids[i] for i in own] == prompts[owner].ids and own[-1] == last
            assert [one.positions[i] for i in own] == list(range(len(own)))
    for batch in batches_of(packs, tokens, most):
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= tokens
        assert sum(len(one.owners) for one in batch) <= most


def test_batch_size_bounds_the_documents_of_a_forward(monkeypatch):
    seen = []

    def watched(model, batch):
        seen.append(len(batch.owners))
        return last_hidden(model, batch)

    monkeypatch.setattr("prorank.rank.model_runtime.last_hidden", watched)
    RERANKERS["llama"].rank_many(["garden", "river"], [["a"] * 7, ["b"] * 4], batch_size=3)
    assert sum(seen) == 11 and max(seen) == 3


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_bf16_runs_and_stays_near(kind, tmp_path):
    folder = save_tiny(tmp_path / kind, kind)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    rough, exact = (Reranker(folder, device="cpu", dtype=dtype) for dtype in ("bf16", "fp32"))
    assert rough.model.dtype == torch.bfloat16
    got = rough.score(pairs)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact.score(pairs), atol=0.1)
    assert rough.fingerprint != exact.fingerprint and len(rough.fingerprint) == 64


def test_progress_hears_of_every_document():
    heard = []
    RERANKERS["llama"].score_lists([QUERY, "b"], [DOCUMENTS, DOCUMENTS[:3]], progress=heard.append)
    assert sum(heard) == 9


def test_show_progress_writes_to_stderr_only(capsys):
    RERANKERS["llama"].rank(QUERY, DOCUMENTS, show_progress=True)
    assert capsys.readouterr().out == ""


def run(monkeypatch, capsys, *args, stdin: str | None = None) -> tuple[int, str, str]:
    """`prorank ARGS` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["prorank", *map(str, args)])
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    with pytest.raises(SystemExit) as end:
        cli.main()
    out = capsys.readouterr()
    return end.value.code or 0, out.out, out.err


@pytest.fixture
def verb(monkeypatch, capsys, tiny_llama_dir):
    def call(*args, stdin=None):
        return run(monkeypatch, capsys, "rerank", *args, "--model", tiny_llama_dir, "--dtype", "fp32", stdin=stdin)

    return call


@pytest.mark.parametrize("form", ["text", "jsonl", "stdin"])
def test_rerank_reads_text_jsonl_and_stdin(verb, tmp_path, tiny_llama_dir, form):
    texts = ["the garden is here", "the river 🦊", "[bold]castle[/bold]"]
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    lines = [json.dumps(row) for row in rows] if form == "jsonl" else texts
    content = "\n".join(lines) + "\n\n"
    (tmp_path / "docs").write_text(content, encoding="utf-8")
    source = "-" if form == "stdin" else tmp_path / "docs"
    code, out, _ = verb(source, "--query", QUERY, "--json", stdin=content if form == "stdin" else None)
    assert code == 0
    got = [json.loads(line) for line in out.splitlines()]
    hits = Reranker(tiny_llama_dir, dtype="fp32").rank(QUERY, rows if form == "jsonl" else texts)
    assert [row["rank"] for row in got] == [1, 2, 3]
    assert [(row["index"], row["document"]) for row in got] == [(hit.index, hit.document) for hit in hits]
    np.testing.assert_allclose([row["score"] for row in got], [hit.score for hit in hits], atol=1e-5)


def test_rerank_shows_a_table_and_tells_of_cuts(verb, tmp_path):
    (tmp_path / "docs").write_text("[bold]garden[/bold]\n" + "river " * 200 + "\n", encoding="utf-8")
    code, out, err = verb(tmp_path / "docs", "-q", QUERY, "--max-length", 128, "--top-k", 2, "--long-documents", "truncate")
    assert code == 0 and "[bold]garden[/bold]" in out and "score" in out
    assert "1 of 2 documents cut, 0 queries cut at 128 tokens" in err
    code, out, _ = verb(tmp_path / "docs", "-q", QUERY, "--top-k", 1, "--json")
    assert len(out.splitlines()) == 1


def beir(folder):
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": "", "text": f"the {word} is near"} for i, word in enumerate(WORDS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "garden"}\n{"_id": "q2", "text": "river"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\nq2\td2\t1\n")
    return folder


def test_rerank_of_a_run(verb, tmp_path, tiny_llama_dir):
    dataset = beir(tmp_path / "toy")
    order = {"q1": [5, 3, 0, 7, 1], "q2": [2, 4]}
    lines = [f"{q} Q0 d{d} {rank} {10 - rank} bm25\n" for q, some in order.items() for rank, d in enumerate(some, 1)]
    (tmp_path / "in.trec").write_text("".join(lines))
    code, out, _ = verb("--run", tmp_path / "in.trec", "--dataset", dataset, "--out", tmp_path / "out.trec", "--top-k", 3)
    assert code == 0 and "2 queries reranked" in out
    got = read_run(tmp_path / "out.trec")
    texts = [f"the {WORDS[d]} is near" for d in order["q1"][:3]]
    best = [f"d{order['q1'][hit.index]}" for hit in Reranker(tiny_llama_dir, dtype="fp32").rank("garden", texts)]
    assert list(got["q1"]) == [*best, "d7", "d1"]  # what lies below the head keeps its order
    scores = list(got["q1"].values())
    assert all(a > b for a, b in zip(scores, scores[1:]))
    assert set(got["q2"]) == {"d2", "d4"}


@pytest.mark.parametrize(
    "args, message",
    [
        (["DOCS"], "give DOCUMENTS (a file, or - for stdin) and a query"),
        (["--query", "q"], "give DOCUMENTS (a file, or - for stdin) and a query"),
        (["MISSING", "--query", "q"], "no such file"),
        (["EMPTY", "--query", "q"], "contains no documents"),
        (["BROKEN", "--query", "q"], "broken.jsonl:2: not valid JSON"),
        (["NOTEXT", "--query", "q"], 'notext.jsonl:1: expected a JSON object with a string "text"'),
        (["LATIN", "--query", "q"], "latin.txt:1: not UTF-8 text"),
        (["DOCS", "--query", "  "], "--query is '  '; expected a text that is not empty"),
        (["DOCS", "--query", "q", "--top-k", "0"], "must be at least 1, not 0"),
        (["DOCS", "--query", "q", "--dtype", "fp23"], "unknown dtype 'fp23'; did you mean 'fp32'?"),
        (["DOCS", "--query", "q", "--device", "tpu"], "device 'tpu' is not available here"),
        (["DOCS", "--query", "q", "--model", "nothing-here"], "nothing-here: no such folder or file"),
        (["--run", "MISSING"], "--run needs --dataset (the texts) and --out"),
        (["--run", "MISSING", "--dataset", "BEIR", "--out", "OUT"], "no such file"),
        (["--run", "FOREIGN", "--dataset", "BEIR", "--out", "OUT"], "none of its 1 queries is in"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, tiny_llama_dir, args, message):
    files = {
        "DOCS": ("docs.txt", b"a\nb\n"),
        "EMPTY": ("empty.txt", b"\n \n"),
        "BROKEN": ("broken.jsonl", b'{"text": "a"}\n{"text": \n'),
        "NOTEXT": ("notext.jsonl", b'{"title": "a"}\n'),
        "LATIN": ("latin.txt", "Gr\xfc\xdfe\n".encode("latin-1")),
        "FOREIGN": ("foreign.trec", b"q9 Q0 d1 1 1.0 x\n"),
    }
    for name, content in files.values():
        (tmp_path / name).write_bytes(content)
    places = {key: tmp_path / name for key, (name, _) in files.items()}
    places |= {"MISSING": tmp_path / "gone", "OUT": tmp_path / "out.trec", "BEIR": beir(tmp_path / "toy")}
    model = [] if "--model" in args else ["--model", tiny_llama_dir]
    code, out, err = run(monkeypatch, capsys, "rerank", *[places.get(a, a) for a in args], *model)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out.trec").exists()
