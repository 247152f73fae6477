"""Text from strangers, fit to be shown: names of tensors, files and classes may hold anything."""

from __future__ import annotations

import re

MAX_LINE = 4000  # letters; the longest lines of ours list some twenty names
# Control characters, which move the cursor or begin a line; marks that reorder text; line separators; halves of
# surrogate pairs, which no encoding has; and two code points that XML forbids. All letters and spaces are shown.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    r"""Return text as one line without effects on a terminal or an XML file: a line feed becomes the letters `\n`."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_line(text: str) -> str:
    """Return printable text; of one with more than `MAX_LINE` letters, the beginning and the end."""
    if len(text) <= MAX_LINE:
        return printable(text)
    half = MAX_LINE // 2
    return f"{printable(text[:half])} [... {len(text) - 2 * half} letters ...] {printable(text[-half:])}"
