"""The precisions in which a fused network can run."""

from __future__ import annotations

from typing import Literal

Precision = Literal["model", "float32", "bfloat16", "float16"]  # "model": the dtype that the model has
