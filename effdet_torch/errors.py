"""Errors of the whole project: one tree.

    EffdetError                     everything that the commands turn into one line on stderr; exit code 1
    +-- UsageError                  invalid usage; exit code 2
    |   +-- ConfigError                 an unknown or unsuitable variant, option or hyperparameter
    |   +-- OverwriteError              an output that is an input
    +-- ModelFileError              a missing, damaged or foreign model file
    +-- OutputError                 a result that cannot be written
    +-- EvaluationError             images, annotations or detections that cannot be evaluated
    +-- TrainingError               a training that cannot go on
    +-- NonFiniteOutputError        a network that returned NaN or infinity
    +-- converter.errors            reading, mapping and writing checkpoints
    +-- verify.errors               references, parity and evaluation

This file imports nothing of the project but how text is shown, so that every package can share the root.
"""

from __future__ import annotations

from collections.abc import Iterable

from effdet_torch.untrusted.text import printable_line

MAX_LISTED = 5


class EffdetError(Exception):
    """Root of all errors raised on purpose; its text is meant for the user.

    Every argument is one line of the text. Names in it may come from strangers, so the text shows no control character
    and no line break but those between the arguments.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(printable_line(str(line)) for line in self.args)


class UsageError(EffdetError):
    """Invalid usage of a command or function."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A variant, option or hyperparameter does not exist, or does not fit the others."""


class OverwriteError(UsageError):
    """An output is a file that is read, or another output."""


class ModelFileError(EffdetError):
    """A model file is missing, damaged, or was not written by this project."""


class OutputError(EffdetError):
    """The result cannot be written."""


class EvaluationError(EffdetError):
    """Images, annotations or detections cannot be evaluated."""


class TrainingError(EffdetError):
    """A training cannot go on."""


class NonFiniteOutputError(EffdetError):
    """A network returned NaN or infinity for an image, so nothing can be said about it.

    Args:
        place: of the image among those that were passed, from 0.
        cause: what was found where, and what to do.
        name: of the image; by default its place, counted from 1.
    """

    def __init__(self, place: int, cause: str = "the network returned NaN or infinity", name: str = "") -> None:
        super().__init__(f"no result for {name or f'image {place + 1}'}: {cause}")
        self.place, self.cause = place, cause

    def at(self, place: int, name: str = "") -> NonFiniteOutputError:
        """Return the same error for an image that is known by another place or name."""
        return NonFiniteOutputError(place, self.cause, name)


def install_command(extra: str) -> str:
    """Return how an optional part of the project is installed; it is on no package index, so by its checkout."""
    return f"run pip install '.[{extra}]' in the checkout of effdet-convert"


def listed(items: Iterable[object], most: int = MAX_LISTED, separator: str = ", ") -> str:
    """Join items for an error message: the first ones, and how many more there are."""
    return separator.join(first_of(items, most))


def first_of(items: Iterable[object], most: int = MAX_LISTED) -> list[str]:
    """Return the first items as texts, and a text that says how many more there are."""
    texts = list(map(str, items))
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return [*texts[:most], *more]
