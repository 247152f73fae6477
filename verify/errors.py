"""Errors of references, parity and evaluation.

EffdetError
+-- VerificationError
    +-- MissingDependencyError  an optional package (TensorFlow) is not installed
    +-- ReferenceModelError     the built-in TensorFlow reference cannot be built from these variables and settings
    +-- GraphError              a checkpoint's graph (.meta) is damaged, a training graph, or another model's
    +-- InputSizeError          images do not have the shape that a reference takes
    +-- ParityError             two sides cannot be compared at all (that they differ is a result, not an error)
"""

from effdet_torch.errors import EffdetError


class VerificationError(EffdetError):
    """Any failure between a converted model and its report."""


class MissingDependencyError(VerificationError):
    """An optional package is not installed."""


class ReferenceModelError(VerificationError):
    """The built-in TensorFlow reference cannot be built from these variables and settings."""


class GraphError(VerificationError):
    """A checkpoint's graph is damaged, a training graph, or another model's."""


class InputSizeError(VerificationError, ValueError):
    """Images do not have the shape that a reference takes."""


class ParityError(VerificationError):
    """Two sides cannot be compared at all, for example because a layer has no counterpart."""
