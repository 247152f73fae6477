"""The numbers of TensorFlow Lite's schema: operations, their options, types.

Source: TensorFlow Lite's `schema.fbs`, version 3.
"""

from __future__ import annotations

from collections.abc import Mapping

CUSTOM = 32
# Codes of operations that a detector can hold; others are called by their number.
OPERATIONS: Mapping[int, str] = {
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    18: "MUL",
    19: "RELU",
    21: "RELU6",
    22: "RESHAPE",
    23: "RESIZE_BILINEAR",
    25: "SOFTMAX",
    28: "TANH",
    34: "PAD",
    39: "TRANSPOSE",
    40: "MEAN",
    41: "SUB",
    42: "DIV",
    47: "EXP",
    53: "CAST",
    73: "LOG",
    74: "SUM",
    83: "PACK",
    97: "RESIZE_NEAREST_NEIGHBOR",
    106: "ADD_N",
    114: "QUANTIZE",
    117: "HARD_SWISH",
}
# Operation -> {option: (field of its table, notation of `struct`, default)}.
_ADDITION = {"activation": (0, "<b", 0)}
_POOL = {
    "padding": (0, "<b", 0),
    "stride_w": (1, "<i", 0),
    "stride_h": (2, "<i", 0),
    "filter_w": (3, "<i", 0),
    "filter_h": (4, "<i", 0),
    "activation": (5, "<b", 0),
}
OPTIONS: Mapping[str, Mapping[str, tuple[int, str, int]]] = {
    "CONV_2D": {
        "padding": (0, "<b", 0),
        "stride_w": (1, "<i", 0),
        "stride_h": (2, "<i", 0),
        "activation": (3, "<b", 0),
        "dilation_w": (4, "<i", 1),
        "dilation_h": (5, "<i", 1),
    },
    "DEPTHWISE_CONV_2D": {
        "padding": (0, "<b", 0),
        "stride_w": (1, "<i", 0),
        "stride_h": (2, "<i", 0),
        "multiplier": (3, "<i", 0),
        "activation": (4, "<b", 0),
        "dilation_w": (5, "<i", 1),
        "dilation_h": (6, "<i", 1),
    },
    "MAX_POOL_2D": _POOL,
    "AVERAGE_POOL_2D": _POOL,
    "ADD": _ADDITION,
    "MUL": _ADDITION,
    "SUB": _ADDITION,
    "DIV": _ADDITION,
    "RESIZE_NEAREST_NEIGHBOR": {"align_corners": (0, "<?", 0), "half_pixel_centers": (1, "<?", 0)},
}
# Number of a type -> (NumPy's notation, name); those without a notation are not read.
TYPES: Mapping[int, tuple[str, str]] = {
    0: ("<f4", "float32"),
    1: ("<f2", "float16"),
    2: ("<i4", "int32"),
    3: ("u1", "uint8"),
    4: ("<i8", "int64"),
    5: ("", "string"),
    6: ("?", "bool"),
    7: ("<i2", "int16"),
    9: ("i1", "int8"),
    10: ("<f8", "float64"),
    17: ("", "int4"),
    18: ("", "bfloat16"),
}
