"""Chinese queries and documents through every verb: search, mining, training, ranking, evaluation, serving, logs of Rerank-R0."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from prorank.cli.command_line import app
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.utils.writing import atomic_file
from tests.serving import running
from tests.tiny import STYLES, byte_tokenizer, write_jsonl

WORDS = "花园 发动机 河流 小提琴 面包 城堡 行星 医生 市场 冬天 马匹 咖啡".split()
ASKED = ("哪里有{0}？", "{0}")
FORMS = ("我们今天看到了{0}。", "那里有{0}，很多人喜欢。", "古老的{0}就在附近。", "又一个{0}，然后是另一个。")
DOCUMENTS = {form.format(word) for form in FORMS for word in WORDS}
TRAINING = ["dtype=fp32", "device=cpu", "steps=2", "num_evaluations=0", "dev_queries=0", "log_every=1", "learning_rate=0.01"]


def prorank(*words: object) -> Result:
    """Run a verb that must succeed."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder of 48 Chinese documents and 24 queries, with judgements of both kinds in each split."""
    folder = tmp_path_factory.mktemp("中文") / "集合"
    corpus = [{"_id": f"d{i}", "title": "", "text": FORMS[i % 4].format(WORDS[i // 4])} for i in range(48)]
    queries = [{"_id": f"q{i}", "text": ASKED[i // 12].format(WORDS[i % 12])} for i in range(24)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        with atomic_file(folder / f"{name}.jsonl") as handle:
            handle.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    labels = [f"q{i}\td{4 * (i % 12)}\t1\nq{i}\td{(4 * (i % 12) + 9) % 48}\t0\n" for i in range(24)]
    for split in ("train", "dev", "test"):
        with atomic_file(folder / "qrels" / f"{split}.tsv") as handle:
            handle.write("query-id\tcorpus-id\tscore\n" + "".join(labels))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tiny_qwen2_dir: Path) -> Path:
    """A tiny Qwen2 after a few steps of both stages with the Chinese prompt, on mined lists. Read only."""
    lists = data.parent / "lists.jsonl"
    said = prorank("mine", data, lists, "--negatives", 3).output
    assert "24 groups of 24 queries" in said and "the texts look Chinese (character bigrams)" in said
    assert all(row["query"].strip("哪里有？") in row["pos"][0] for row in rows_of(lists))
    config = data.parent / "配置.yaml"
    config.write_text(f"stage: warmup\nbase: {tiny_qwen2_dir}\ndata: {lists}\nprompt: prorank-zh\n", encoding="utf-8")
    prorank("train", config, f"out={data.parent / 'warmup'}", *TRAINING)
    warm = data.parent / "warmup" / "model"
    teacher = ["loss.kl=1", "teacher=bm25", "loss.listnet=1"]
    prorank("train", config, "stage=score", f"base={warm}", f"out={data.parent / 'score'}", *teacher, *TRAINING)
    return data.parent / "score" / "model"


def test_the_prompt_is_kept_and_its_answers_are_tokens(trained: Path) -> None:
    prompt = Prompt.load(trained)
    assert prompt is not None and prompt.name == "prorank-zh" and prompt.answers == ("0", "1")
    for style in STYLES:
        encoder = Prompt.preset("prorank-zh").bind(byte_tokenizer(style))
        text = encoder.render("哪里有花园？", "古老的花园", "找地点")
        assert "要求：" in text and text.index("哪里有花园？") < text.index("古老的花园") < text.index("相关吗？")
        assert "判断文档是否与查询相关" in text


@pytest.mark.parametrize("style", STYLES)
def test_cut_documents_stay_within_the_length(style: str) -> None:
    """A cut may fall inside of a character, whose bytes are several tokens."""
    encoder = Prompt.preset("prorank-zh", max_length=300).bind(byte_tokenizer(style))
    encoded = encoder.encode("哪里有花园？", "古老的花园就在附近。" * 80)
    assert encoded.document_cut and len(encoded.ids) <= 300


def test_rerank_and_search(data: Path, trained: Path) -> None:
    documents = data.parent / "文档.txt"
    documents.write_text("".join(f"{row['text']}\n" for row in rows_of(data / "corpus.jsonl")), encoding="utf-8")
    hits = [json.loads(line) for line in prorank("rerank", documents, "哪里有花园？", "-m", trained, "--json").stdout.splitlines()]
    assert len(hits) == 48 and {hit["document"] for hit in hits} == set(documents.read_text(encoding="utf-8").splitlines())
    assert "花园" in prorank("rerank", documents, "--query", "哪里有花园？", "-m", trained).stdout
    found = prorank("search", documents, "哪里有花园？", "-m", trained, "--candidates", 4, "--json")
    assert {json.loads(line)["index"] for line in found.stdout.splitlines()} == {0, 1, 2, 3}
    run = data.parent / "first.run"
    prorank("search", data, "--queries", data, "--no-rerank", "--out", run, "--candidates", 8)
    prorank("rerank", "--run", run, "--dataset", data, "--out", data.parent / "second.run", "-m", trained, "--top-k", 4)
    assert len((data.parent / "second.run").read_text().splitlines()) == len(run.read_text().splitlines()) >= 24 * 4
    prorank("sample-pairs", data.parent / "pairs.jsonl", "--run", run, "--dataset", data, "--per-query", 2)
    assert all(row["query"] and row["document"] in DOCUMENTS for row in rows_of(data.parent / "pairs.jsonl"))


def test_evaluate(data: Path, trained: Path) -> None:
    out = data.parent / "report"
    said = prorank("evaluate", data, "--model", trained, "--out", out, "--limit", 6, "--top-k", 8, "--dtype", "fp32").output
    assert "BM25: the texts look Chinese" in said
    first, second = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"][:2]
    assert first["measures"]["R@8"] == 1 and 0 < second["measures"]["nDCG@10"] <= 1
    assert "the texts look Chinese" in (out / "report.html").read_text(encoding="utf-8")
    other = prorank("evaluate", data, "--language", "english").output
    assert "look Chinese" not in other and "absent from the first stage" in other


def test_calibrate(data: Path, trained: Path) -> None:
    copy = data.parent / "calibrated"
    prorank("calibrate", trained, "--data", data, "--copy", copy, "--method", "temperature", "--dtype", "fp32")
    hit = Reranker(copy, device="cpu", dtype="fp32").rank("花园", ["古老的花园"])[0]
    assert 0 < hit.probability < 1


@pytest.mark.slow
def test_adapt(data: Path, trained: Path) -> None:
    adapted = data.parent / "adapted"
    said = prorank("adapt", data, "-m", trained, "--out", adapted, "--minutes", 0.01, "--language", "zh", "--device", "cpu").output
    assert "nDCG@10 before" in said and (adapted / "adapted.json").is_file()


def test_serve_and_its_page(trained: Path) -> None:
    reranker = Reranker(trained, device="cpu", dtype="fp32")
    documents = ["古老的花园就在附近。", "那里有面包，很多人喜欢。", "🦊 与 emoji"]
    with running(reranker) as server:
        body = {"query": "哪里有花园？", "documents": documents, "return_documents": True}
        results = server.post("/v1/rerank", body).json()["results"]
        page = server.client.get("/")
    assert [row["document"]["text"] for row in results] == [documents[row["index"]] for row in results]
    assert [row["index"] for row in results] == [hit.index for hit in reranker.rank("哪里有花园？", documents)]
    assert page.status_code == 200 and "charset=utf-8" in page.headers["content-type"]


def test_logs_of_rerank_r0_train_a_tiny_qwen2(data: Path, tiny_qwen2_dir: Path) -> None:
    """Log lines with Chinese thoughts become pairs, train stage sft, and the model thinks about Chinese documents."""
    rejected = [{"document": "面包需要面粉和水。", "thinking": "文档讲的是面包。没有提到查询中的花园。"}]
    rows = [
        {"query": f"{word}在哪里？", "response": FORMS[2].format(word), "response_thinking": f"文档提到了{word}的位置，全部覆盖。"}
        | {"rejected_response": rejected}
        for word in WORDS
    ]  # fmt: skip
    log, pairs = write_jsonl(data.parent / "日志.jsonl", rows), data.parent / "r0.jsonl"
    said = prorank("import-logs", log, pairs, "--max-think-chars", 12).output
    assert "24 pairs (12 yes, 12 no) from 12 lines" in said
    assert {row["think"] for row in rows_of(pairs) if row["answer"] == "no"} == {"文档讲的是面包。"}
    config = data.parent / "sft.yaml"
    config.write_text(f"stage: sft\nbase: {tiny_qwen2_dir}\ndata: {pairs}\nmax_length: 1024\n", encoding="utf-8")
    prorank("train", config, f"out={data.parent / 'sft'}", "batch_size=4", *TRAINING)
    reranker = Reranker(data.parent / "sft" / "model", device="cpu", dtype="fp32", max_think_tokens=8)
    assert reranker.prompt.name == "rerank-r0"
    hits = reranker.rank("花园在哪里？", ["古老的花园就在附近。", "面包需要面粉和水。"])
    assert {hit.index for hit in hits} == {0, 1}
