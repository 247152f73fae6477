"""Errors of references, parity and evaluation.

EffdetError
+-- VerificationError
    +-- MissingDependencyError  an optional package (TensorFlow) is not installed
    +-- ReferenceModelError     the built-in TensorFlow reference cannot be built from these variables and settings
    +-- GraphError              TensorFlow's own graph is damaged, a training graph, unsafe, or not there
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
    """TensorFlow's own graph is damaged, a training graph, unsafe to run, or missing although it must run."""


class InputSizeError(VerificationError, ValueError):
    """Images do not have the shape that a reference takes."""


class ParityError(VerificationError):
    """Two sides cannot be compared at all, for example because a layer has no counterpart."""
