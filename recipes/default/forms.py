"""Query templates: a subject becomes a keyword query or a question, chosen by a seed.

The template depends only on (seed, subject), so adding or reordering sources changes no other query.
"""

from __future__ import annotations

import re
from random import Random

LOWER = 0.8  # share of queries in lower case


def draw(seed: str, forms: tuple[str, ...], subject: str) -> str:
    """Fill the subject into one of the `forms` at `{}`, usually in lower case."""
    rng = Random(f"form/{seed}/{subject}")
    query = " ".join(rng.choice(forms).format(subject).split())
    return query.lower() if rng.random() < LOWER else query


THING = ("what is {}", "{}", "{}", "{} definition", "define {}", "what does {} mean", "explain {}", "{} meaning")
NAME = ("what is {}", "{}", "{}", "{} facts", "tell me about {}", "information on {}")
PERSON = ("who was {}", "{}", "{}", "{} biography", "what is {} known for", "life and work of {}")
PLACE = ("where is {}", "{}", "{}", "what is {}", "{} location and facts", "{} geography")
DISH = ("how to make {}", "{} recipe", "how do you cook {}", "{} ingredients and preparation", "recipe for {}")
TERM = ("what is {}", "{} definition", "{}", "what does {} mean", "define {}", "{} meaning in computing")
WORD = ("define {}", "{} definition", "what does {} mean", "meaning of the word {}", "{} meaning")
DISEASE = ("what is {}", "{}", "{} definition", "what are the characteristics of {}", "{} causes and features")
BODY = ("what is {}", "{}", "{} definition", "define {}", "{} location and structure", "{} anatomy")
TOPIC = ("{}", "{}", "{}", "explain {}", "about {}")


def article(subject: str, forms: tuple[str, ...], seed: str) -> str:
    """Make a query about a subject, with "are" instead of "is" if it is a plural of common words."""
    query = draw(seed, forms, subject)
    if re.fullmatch(r"[A-Z]?[a-z ]+[^su]s", subject) and not subject.endswith(("ics", "ysis")):
        query = re.sub(r"(?i)^what is ", "what are ", query)
    return query


HEADINGS = (  # heading of an article's section -> query templates
    (r"causes?|aetiology|etiology", ("what causes {}", "causes of {}")),
    (r"(signs and )?symptoms|characteristics", ("what are the signs of {}", "{} characteristics")),
    (r"treatment|management|prognosis", ("how is {} treated", "{} treatment")),
    (r"(early |modern |ancient )?history|origins?|background", ("history of {}", "{} history", "how did {} begin")),
    (r"etymology|terminology|name", ("where does the word {} come from", "origin of the name {}")),
    (r"climate", ("what is the climate of {}", "{} weather and climate")),
    (r"economy", ("economy of {}", "what is the economy of {} like")),
    (r"demographics|population", ("population of {}", "who lives in {}")),
    (r"geography|location", ("geography of {}", "where is {}")),
    (r"early life|childhood|early years|youth", ("early life of {}", "where did {} grow up", "{} childhood")),
    (r"death|final years|later life", ("how did {} die", "last years of {}")),
    (r"applications?|uses?", ("what is {} used for", "uses of {}")),
    (r"properties", ("properties of {}", "{} properties")),
    (r"criticism|controversy|controversies", ("criticism of {}", "why is {} criticized")),
    (r"plot( summary)?|synopsis", ("what happens in {}", "plot of {}", "{} summary")),
    (r"reception|legacy|influence", ("influence of {}", "how was {} received", "legacy of {}")),
    (r"diet|food|feeding", ("what do {} eat", "{} diet")),
)


def section(subject: str, heading: str, seed: str) -> str:
    """Make a query for a section of the article on `subject`; usual headings give usual questions."""
    for pattern, forms in HEADINGS:
        if re.fullmatch(pattern, heading, re.IGNORECASE):
            return draw(seed, forms, subject)
    return draw(seed, ("{}", "{}"), Random(f"join/{subject}/{heading}").choice((f"{subject} {heading}", f"{heading} {subject}")))
