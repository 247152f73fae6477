"""Templates of HTML pages: what strangers named is text, never markup."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from effdet_torch.untrusted.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def page_templates(package: str) -> Environment:
    """Return the templates in a package's folder `templates`; values are escaped, and a missing one is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: most runs write no page

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["base64"] = lambda data: b64encode(data).decode()
    return environment


def _finalize(value: Any) -> Any:
    """Clean what comes from files; markup that is already safe stays as it is."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)


def _breakable(name: str) -> Markup:
    """Let a long name break after its separators rather than anywhere."""
    from markupsafe import Markup, escape

    escaped = escape(printable(name))
    return escaped.replace("/", Markup("/<wbr>")).replace(".", Markup(".<wbr>"))
