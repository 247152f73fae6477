"""The report as one page: a single HTML file that needs no network, made from templates/."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from verify.report import summary
from verify.report.detection import checks, detection_sentence, metric_rows
from verify.report.plots import error_growth_svg
from verify.results import Verification

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MAX_LISTED = 20


def to_html(verification: Verification) -> str:
    """Return a verification as a page with a plot and a table of all layers that sorts and filters."""
    from markupsafe import Markup

    runs = summary.runs(verification)
    output_dtypes, outputs = summary.outputs(verification)
    detection = verification.detection
    return _template().render(
        verification=verification,
        runs=runs,
        run_keys=[(run.mode, run.dtype) for run in runs],
        layers=summary.by_layer(verification.layers),
        output_dtypes=output_dtypes,
        outputs=outputs,
        failed=summary.failed_layers(verification),
        max_listed=MAX_LISTED,
        detection=detection,
        detection_sentence=detection_sentence(detection) if detection is not None else "",
        metric_rows=metric_rows(detection) if detection is not None else [],
        checks=list(checks(detection)) if detection is not None else [],
        plot=Markup(error_growth_svg(verification) if verification.layers else ""),  # noqa: S704 - our own drawing; its texts hold no names
    )


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
    environment.filters |= {
        "breakable": _breakable,
        "number": summary.number,
        "prod": math.prod,
        "sort_value": _sort_value,
    }
    environment.globals["summary"] = summary
    return environment.get_template("report.html.j2")


def _finalize(value: Any) -> Any:
    """Clean what comes from the verification; markup that is already safe stays as it is."""
    return summary.printable(value) if type(value) is str else value


def _breakable(name: str) -> Markup:
    """Let a long name break after its separators rather than anywhere."""
    from markupsafe import Markup, escape

    escaped = escape(summary.printable(name))
    return escaped.replace("/", Markup("/<wbr>")).replace(".", Markup(".<wbr>"))


def _sort_value(value: float) -> str:
    """Return a number as the page's script reads it; what is not finite sorts as the largest."""
    return f"{value:.6g}" if math.isfinite(value) else "Infinity"
