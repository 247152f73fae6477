"""The report as one page: a single HTML file that works offline, made from templates/."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from effdet_torch.untrusted.pages import page_templates
from verify.report.content.plots import panels
from verify.report.content.section import MAX_LISTED, Failed
from verify.report.content.sections import sections
from verify.report.content.text import FACTS
from verify.results.verification import Verification

if TYPE_CHECKING:
    from jinja2 import Template


def to_html(verification: Verification) -> str:
    """Return a verification as a page with figures, and with tables that can be sorted and filtered."""
    verdict, *others = sections(verification)
    return _template().render(verdict=verdict, sections=others, max_listed=MAX_LISTED)


@cache
def _template() -> Template:
    environment = page_templates("verify.report")
    environment.filters["named"] = lambda key: FACTS.get(key, key)
    environment.tests["failed"] = lambda cell: isinstance(cell, Failed)
    environment.globals["panels"] = panels
    return environment.get_template("report.html.j2")
