"""All tolerances of the verification: max |found - expected| over rms(expected) of a layer's output.

The fused network is compared with the model in float64, an exported file with either in float64, every other mode with
TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping

from verify.results.verification import DType, Mode, Precision

# (mode, dtype) -> (tolerance, reason). The reasons go into the reports.
TOLERANCES: Mapping[tuple[Mode, Precision], tuple[float, str]] = {
    ("isolated", "float64"): (1e-12, "one layer: a few thousand roundings of 1e-16, measured up to 1e-14"),
    ("cumulative", "float64"): (1e-11, "roundings of 1e-16 through the whole network, measured up to 1e-13"),
    ("isolated", "float32"): (2e-5, "one layer: a few thousand roundings of 6e-8 that partly cancel"),
    ("cumulative", "float32"): (
        5e-4,
        "official float32 is up to 4e-5 (random input) or 3e-4 (photograph) from float64",
    ),
    ("cumulative", "float16"): (1e-2, "TensorFlow Lite rounds the kernels of every level anew: measured up to 2.5e-3"),
    ("cumulative", "int8"): (0.6, "TensorFlow Lite computes with codes of 8 bits: measured up to 0.4"),
    ("fused", "float64"): (1e-12, "the same sums in another order, measured up to 1.2e-13"),
    ("fused", "float32"): (2e-5, "roundings of 6e-8 through the whole network, measured up to 1e-5 on seeded weights"),
    ("exported", "float32"): (
        5e-4,
        "ONNX Runtime and OpenVINO are up to 5e-5 (random input) or 3e-4 (photograph) from float64",
    ),
    ("exported", "int8"): (2.0, "single values of 8-bit codes are far off: measured up to 1.2 on a trained network"),
    ("exported", "float16"): (1e-1, "a mantissa of 10 bits, and roundings add up: measured up to 4e-2"),
}

# Kinds that average over the whole image lose digits in float32 on a photograph with a large constant border: measured
# up to 3e-4 at 512 pixels. Their parts are compared one by one with the tolerance above, so nothing hides here.
AVERAGING = ("squeeze_excite", "block")
AVERAGING_TOLERANCE = 5e-4

# A trained network amplifies roundings more than a seeded one: on noise at 512 pixels the model's own float32 is 4.5e-5
# from its float64, and the fused network's 3.7e-5. Both round the same sums, in another order: the worst output of the
# fused network was at most 1.7 times as far off as the model's worst; on weights that nothing trained, 2.5 times.
FUSED_TO_OWN = 4.0


def tolerance(mode: Mode, dtype: Precision, kind: str) -> float:
    """Return the tolerance of a comparison; `kind` is the mapping row's."""
    if (mode, dtype) == ("isolated", "float32") and kind in AVERAGING:
        return AVERAGING_TOLERANCE
    return TOLERANCES[mode, dtype][0]


def fused_tolerance(dtype: DType, own: float) -> float:
    """Return the tolerance of an output of the fused network.

    Args:
        dtype: it computes in.
        own: largest error of the model's own outputs in that dtype. Where the model rounds more than `TOLERANCES`
            allow, the fused network may round `FUSED_TO_OWN` times as much, but never more than the model may differ
            from TensorFlow.
    """
    least, most = TOLERANCES["fused", dtype][0], TOLERANCES["cumulative", dtype][0]
    return min(max(least, FUSED_TO_OWN * own), most)  # an error that is NaN leaves the least
