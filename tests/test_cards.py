"""Model cards: statements that are true of their folder, front matter for hubs, and sections that are replaced."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prorank.checkpoints.calibration import Calibration
from prorank.checkpoints.card import (
    CALIBRATION,
    HUB_BASE,
    LIBRARIES,
    adapted_card,
    calibrated,
    card_head,
    front_matter,
    hub_base,
    merged_card,
    model_card,
    read_card,
    section_of,
    with_section,
)
from prorank.checkpoints.saving import save_checkpoint
from prorank.prompts.prompt import Prompt
from prorank.train.run import train
from prorank.train.settings.stage_settings import make_settings
from tests.test_saving import adapter
from tests.tiny import byte_tokenizer, tiny_llama, tiny_qwen2, write_jsonl

SETTINGS = {"lr": 1e-4, "prompt": "e: #cho", "path": "a\\b"}
FOUND = {
    "before": 0.5, "after": 0.75, "p": 0.01, "likelihood": 0.2, "likelihood_p": 0.002, "queries": 31, "trained_on": 31,
    "better": True, "model": "x", "trainings": 3, "gain": "linear",
}  # fmt: skip
ODD = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)


@given(name=ODD, base=ODD, licence=st.sampled_from(["apache-2.0", "mit", "other"]), lists=st.booleans())
def test_front_matter_is_yaml_whatever_names_there_are(name, base, licence, lists):
    """Names with colons, quotes and marks."""
    cards = [
        model_card(name, base, None, licence, "score", "d", SETTINGS, {"a": 1}, "c", lists),
        adapted_card(name, base, "own/base", licence, ["d"], SETTINGS, FOUND, (0.75, 0.43), "c"),
        merged_card(name, base, base, licence, "", "bf16", None, lists),
    ]
    for card, hub in zip(cards, (None, "own/base", base)):
        values = yaml.safe_load(card.split("---\n")[1])
        assert values == front_matter(card) and values["license"] == licence and values.get("base_model") == hub


@pytest.mark.parametrize("name", ["runs/a b/score", 'it\'s "odd"', "out\\x", "größe/模型"])
def test_the_line_of_use_is_python_that_names_the_folder(name):
    card = model_card(name, "b", None, "mit", "score", "d", {}, {}, "c")
    code = card.split("```python\n")[1].split("```")[0]
    seen = []

    class Fake:
        rank = staticmethod(lambda *_: [])

    exec(code.replace("from prorank import Reranker", ""), {"Reranker": lambda given: seen.append(given) or Fake})
    assert seen == [name]


def test_the_card_of_a_run_names_its_base_and_how_to_load_it(tmp_path, tiny_llama_dir):
    """The run's own path, also in the second run, whose base is the first."""
    data = write_jsonl(tmp_path / "d.jsonl", [{"query": f"q {i}", "pos": ["a"], "neg": ["b"]} for i in range(4)])
    values = {"stage": "score", "base": str(tiny_llama_dir), "data": str(data), "out": str(tmp_path / "deep" / "run"), "steps": 1}
    folder = train(make_settings(values | {"dev_queries": 0, "dtype": "fp32", "max_length": 96}))
    card = read_card(folder)
    assert f'Reranker("{tmp_path / "deep" / "run"}")' in card and "\n# run\n" in card and f"from `{tiny_llama_dir}`" in card
    assert "base_model" not in front_matter(card) and "same scores except for queries above" in section_of(card, LIBRARIES)


def test_the_hub_id_is_that_of_the_first_base(tmp_path):
    (tmp_path / "README.md").write_text(card_head("run", "own/model", "mit"))
    assert hub_base("smollm2-135m", tmp_path / "none") == hub_base("prorank-smollm2-135m", tmp_path / "none") == HUB_BASE
    assert hub_base("Qwen/Qwen2.5-0.5B", tmp_path / "none") == "Qwen/Qwen2.5-0.5B"
    assert hub_base(str(tmp_path), tmp_path) == "own/model" and hub_base("runs/x/y", tmp_path / "none") is None
    (tmp_path / "README.md").write_text("---\nbase_model: [a, b\n---\n")
    assert hub_base(str(tmp_path), tmp_path) is None


@pytest.mark.parametrize(("build", "style", "preset", "said"), [
    (tiny_llama, "smollm", "prorank", "with the same scores except for queries above 223 tokens"),
    (tiny_llama, "smollm", "document-first", "with the same scores except for prompts above 512 tokens"),
    (tiny_qwen2, "qwen2", "prorank", "; texts that contain a special token, or begin or end with white space."),
    (tiny_llama, "plain", "prorank", "where scores differ"),
    (tiny_llama, "smollm", "rerank-r0", "where scores differ"),
])  # fmt: skip
def test_statements_on_cross_encoders_match_the_saved_tokenizer(build, style, preset, said, tmp_path):
    """The card claims equal scores only if the saved tokenizer gives equal ids."""
    tokenizer = byte_tokenizer(style)
    bound = Prompt.preset(preset).bind(tokenizer)
    folder = save_checkpoint(tmp_path / "m", build(tokenizer), bound, card="# m\n")
    if style == "qwen2" and type(AutoTokenizer.from_pretrained(folder)).__name__ == "TokenizersBackend":
        # older versions of transformers load the saved tokenizer as it is
        said = "with the same scores except for queries above"
    assert said in " ".join(section_of(read_card(folder), LIBRARIES).split())


def test_an_adapter_does_not_promise_to_load_elsewhere(tmp_path, tiny_llama_dir):
    model, folder = adapter(tmp_path / "lora", tiny_llama_dir)
    assert read_card(folder) is None  # peft's own card, which has nothing filled in, does not stay
    bound = Prompt.preset("prorank", max_length=192).bind(byte_tokenizer("smollm"))
    save_checkpoint(folder, model, bound, base=(str(tiny_llama_dir), tiny_llama_dir), card="# m\n")
    card = read_card(folder)
    assert "LoRA adapter" in card and "AutoModelForCausalLM" not in card and "CrossEncoder" not in card


def test_a_calibration_replaces_the_one_before_and_a_copy_names_itself(tmp_path):
    """`calibrate`, then `calibrate` again, then `calibrate --copy`."""
    folder, figures = tmp_path / "m", {"before": {"ece": 0.2}, "after": {"ece": 0.05}, "data": "dev.jsonl"}
    folder.mkdir()
    card = model_card("old", "b", None, "mit", "score", "d", {}, {}, "c")
    (folder / "README.md").write_text(card + "\n## Limits\n\n- It is small.\n")
    calibrated(folder, Calibration("temperature", {"temperature": 1.5}, **figures))
    calibrated(folder, Calibration("platt", {"slope": 0.5, "intercept": -1.0}, **figures))
    card = read_card(folder)
    assert card.count("Hits carry a probability") == 1 and "platt, slope 0.5" in card and "temperature 1.5" not in card
    assert 'Reranker("old")' in card and "- It is small." in card and "ECE on held-out queries 0.2000 before, 0.0500 after" in card
    calibrated(folder, Calibration("temperature", {"temperature": 3.0}, **figures), "runs/new")
    card = read_card(folder)
    assert 'Reranker("runs/new")' in card and "\n# new\n" in card and "temperature 3" in card and "platt" not in card


def test_a_folder_without_a_card_gets_none(tmp_path):
    calibrated(tmp_path, Calibration("temperature", {"temperature": 1.5}))
    assert not list(tmp_path.iterdir())


BODIES = st.lists(st.sampled_from(["one", "two\n\n```\n# three\n```", "- four"]), max_size=3)


@given(bodies=BODIES, new=st.sampled_from(["new", None]))
def test_sections_are_replaced_in_place(bodies, new):
    titles = ["Training", CALIBRATION, "Limits"][: len(bodies)]
    card = "# x\n\nabout\n" + "".join(f"\n## {title}\n\n{body}\n" for title, body in zip(titles, bodies))
    found = with_section(card, CALIBRATION, new)
    assert section_of(found, CALIBRATION) == new and with_section(found, CALIBRATION, new) == found
    for title, body in zip(titles, bodies):
        assert title == CALIBRATION or section_of(found, title) == body
    assert found.startswith("# x\n\nabout\n")


def test_a_merged_card_keeps_data_and_drops_measures_of_the_adapter():
    """Measures and calibration were those of the other folder."""
    source = model_card("run", "own/base", "own/base", "mit", "score", "toy lists", SETTINGS, {"ndcg@10": 0.9}, "prorank train x")
    source = with_section(with_section(source, CALIBRATION, "temperature 2"), "Data", "| toy | CC0 |")
    card = merged_card("out/m", "runs/run", "own/base", "mit", "smollm2-135m", "bf16", source, False)
    assert "from `runs/run`, an adapter over `smollm2-135m`, merged; weights in bf16" in card and 'Reranker("out/m")' in card
    assert "toy lists" in card and "| toy | CC0 |" in card and "temperature 2" not in card and "0.9" not in card
