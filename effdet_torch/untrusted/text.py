"""Text fit to be shown: names of tensors, files and classes, which may hold anything, and lines that fit a terminal."""

from __future__ import annotations

import re
import unicodedata

MAX_LINE = 4000  # letters; the longest lines of ours list some twenty names
# Control characters, which move the cursor or begin a line; marks that reorder text; line separators; halves of
# surrogate pairs, which no encoding has; and two code points that XML forbids. All letters and spaces are shown.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

# Spaces that stay on one line, because they part a number from its unit or the numbers of one shape.
_BOUND = re.compile(r"(?<=\d) (?=[\w%])|(?<=\d [xM]) (?=\w)|(?<=\d,) (?=[\d, ]*\))")
_BINDING = "\0"  # stands for such a space; printable text holds none
# Where a word that is longer than a line may end: behind a part of a name, but not within a number.
_BREAKS = re.compile(rf"(?<=/)|(?<=\D\.)|(?<=\.)(?!\d)|(?<={_BINDING})")


def printable(text: str) -> str:
    r"""Return text as one line without effects on a terminal or an XML file: a line feed becomes the letters `\n`."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_line(text: str) -> str:
    """Return printable text; of one with more than `MAX_LINE` letters, the beginning and the end."""
    if len(text) <= MAX_LINE:
        return printable(text)
    half = MAX_LINE // 2
    return f"{printable(text[:half])} [... {len(text) - 2 * half} letters ...] {printable(text[-half:])}"


def columns(text: str) -> int:
    """Return how many columns of a terminal a printable text takes; letters of East Asia take two."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text if not text.isascii())


def wrapped(text: str, width: int | None, hanging: int = 0) -> list[str]:
    """Return printable text as lines of at most `width` columns; as one line if the width is None.

    Lines end between words, but not between a number and its unit. Words that are longer than a line, such as names of
    layers, are broken behind `/` or `.`, and elsewhere only if a single part is longer than a line.

    Args:
        text: one line.
        width: of a line, in columns.
        hanging: indentation of all lines but the first, in columns; at most half of the width.
    """
    if width is None or columns(text) <= width:
        return [text]
    hanging = min(hanging, width // 2)
    first, *words = _BOUND.sub(_BINDING, text).split(" ")
    lines = _broken(first, max(width, 2))
    for word in words:
        if columns(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines += [" " * hanging + piece for piece in _broken(word, max(width - hanging, 2))]
    return [line.replace(_BINDING, " ").rstrip() for line in lines]


def _broken(word: str, width: int) -> list[str]:
    pieces = [""]
    for part in _BREAKS.split(word):
        for unit in [part] if columns(part) <= width else part:
            if columns(pieces[-1] + unit) > width:
                pieces.append("")
            pieces[-1] += unit
    return pieces
