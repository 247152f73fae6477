"""All tolerances of the verification: max |found - expected| over rms(expected) of a layer's output."""

from __future__ import annotations

from collections.abc import Mapping

from verify.results.verification import DType, Mode

# (mode, dtype) -> (tolerance, reason). The reasons go into the reports.
TOLERANCES: Mapping[tuple[Mode, DType], tuple[float, str]] = {
    ("isolated", "float64"): (1e-12, "one layer: a few thousand roundings of 1e-16, measured up to 1e-14"),
    ("cumulative", "float64"): (1e-11, "roundings of 1e-16 through the whole network, measured up to 1e-13"),
    ("isolated", "float32"): (2e-5, "one layer: a few thousand roundings of 6e-8 that partly cancel"),
    ("cumulative", "float32"): (
        5e-4,
        "official float32 is up to 4e-5 (random input) or 3e-4 (photograph) from float64",
    ),
}

# Kinds that average over the whole image lose digits in float32 on a photograph with a large constant border: measured
# up to 3e-4 at 512 pixels. Their parts are compared one by one with the tolerance above, so nothing hides here.
AVERAGING = ("squeeze_excite", "block")
AVERAGING_TOLERANCE = 5e-4


def tolerance(mode: Mode, dtype: DType, kind: str) -> float:
    """Return the tolerance of a comparison; `kind` is the mapping row's."""
    if (mode, dtype) == ("isolated", "float32") and kind in AVERAGING:
        return AVERAGING_TOLERANCE
    return TOLERANCES[mode, dtype][0]
