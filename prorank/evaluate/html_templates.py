"""The Jinja2 environment of the HTML report.

Autoescape is on in every template: queries, dataset names and file names come from users and may contain HTML.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from .format import figure, findings_cells, p_value, percent, probability, shortened, shown_name, signed, speed, tokens


@cache
def template_environment() -> Environment:
    """Return the environment of `prorank/evaluate/templates`, with the functions of `format` as filters."""
    made = Environment(
        loader=PackageLoader("prorank.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (figure, findings_cells, p_value, percent, probability, shortened, shown_name, signed, speed, tokens)
    made.filters.update({function.__name__: function for function in filters})
    made.filters["css_class"] = lambda kind: kind.replace(" ", "-")
    return made
