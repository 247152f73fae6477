"""The report as one page: a single HTML file that works offline, made from templates/."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from typing import TYPE_CHECKING, Any

from effdet_torch.untrusted.text import printable
from verify.report.content.plots import panels
from verify.report.content.section import MAX_LISTED, Failed
from verify.report.content.sections import sections
from verify.report.content.text import FACTS
from verify.results.verification import Verification

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


def to_html(verification: Verification) -> str:
    """Return a verification as a page with figures, and with tables that can be sorted and filtered."""
    verdict, *others = sections(verification)
    return _template().render(verdict=verdict, sections=others, max_listed=MAX_LISTED)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("verify.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["base64"] = lambda data: b64encode(data).decode()
    environment.filters["named"] = lambda key: FACTS.get(key, key)
    environment.tests["failed"] = lambda cell: isinstance(cell, Failed)
    environment.globals["panels"] = panels
    return environment.get_template("report.html.j2")


def _finalize(value: Any) -> Any:
    """Clean what comes from the verification; markup that is already safe stays as it is."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)


def _breakable(name: str) -> Markup:
    """Let a long name break after its separators rather than anywhere."""
    from markupsafe import Markup, escape

    escaped = escape(printable(name))
    return escaped.replace("/", Markup("/<wbr>")).replace(".", Markup(".<wbr>"))
