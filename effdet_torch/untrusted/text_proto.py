"""Protocol buffers as text (`pipeline.config`, label maps, a folder's `checkpoint`): names, values, messages in braces.

Without the schema, a number, a word and a text are told apart by how they are written, and every field is a list.

Source: the text format specification of protocol buffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 32  # messages in messages; a pipeline has 8
MAX_TOKENS = 1_000_000  # a pipeline has some 600, a label map of 20 000 classes 240 000
MAX_DIGITS = 20  # of a whole number
MAX_WHOLE = (1 << 64) - 1
ESCAPES = dict(zip("abfnrtv?'\"\\", "\a\b\f\n\r\t\v?'\"\\", strict=True))  # in texts
CLOSING = {"{": "}", "<": ">"}
_BYTES = "surrogateescape"  # what stands for bytes that are not UTF-8
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)(?![\w.]))
    |(?P<word>-?[A-Za-z_][\w.]*|\[[\w./]+\](?=\s*[:{<]))
    |(?P<mark>[{}<>:,;\[\]])
    """,
    re.VERBOSE | re.ASCII,
)


_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")


class Word(str):
    """A name that stands as a value: an enum's, true, false."""

    __slots__ = ()


Fields = dict[str, list["str | int | float | Word | Fields"]]


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse_text_proto(text: str) -> Fields:
    r"""Return {field: values} of a message; texts that follow each other are one.

    Bytes of a text that are not UTF-8 become half surrogates, as in Python's names of files; an unknown escape, such as
    `\d` in a path of Windows, stays as it is written.

    Raises:
        ValueError: It is not such a message, or larger than any; the text has the line.
    """
    return _Parser(_tokens(text)).fields("", 0)


def _tokens(text: str) -> Iterator[_Token]:
    position, line, count = 0, 1, 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"line {line}: {text[position : position + 20]!r} cannot be read")
        if found.lastgroup != "space":
            count += 1
            if count > MAX_TOKENS:
                raise ValueError(f"line {line}: more than {MAX_TOKENS} words and marks")
            yield _Token(str(found.lastgroup), found[0], line)
        line += found[0].count("\n")
        position = found.end()
    yield _Token("end", "", line)


class _Parser:
    """Reads tokens, one after another; the last one is the end."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self._tokens, self._ahead = tokens, next(tokens)

    def fields(self, closing: str, depth: int) -> Fields:
        """Return the fields up to a closing mark; "" is the end of the text."""
        if depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} messages in each other")
        fields: Fields = {}
        while (token := self._next()).text != closing or token.kind not in ("mark", "end"):
            if token.kind != "word":
                raise self._error(f"expected the name of a field or {closing or 'the end'!r}", token)
            has_colon = self._skip(":")
            if not has_colon and self._peek().text not in (*CLOSING, "["):
                raise self._error(f"expected ':' after {token.text[:40]}", self._peek())
            values = fields.setdefault(token.text, [])
            if self._skip("["):
                values.extend(self._list(depth))
            else:
                values.append(self._value(depth))
            self._skip(",", ";")
        return fields

    def _list(self, depth: int) -> Iterator[str | int | float | Word | Fields]:
        while not self._skip("]"):
            yield self._value(depth)
            if not self._skip(",") and self._peek().text != "]":
                raise self._error("expected ',' or ']'", self._peek())

    def _value(self, depth: int) -> str | int | float | Word | Fields:
        token = self._next()
        if token.text in CLOSING and token.kind == "mark":
            return self.fields(CLOSING[token.text], depth + 1)
        if token.kind == "text":
            parts = [token]
            while self._peek().kind == "text":
                parts.append(self._next())
            return _text(parts)
        if token.kind == "number":
            return _number(token)
        if token.kind == "word":
            return Word(token.text)
        raise self._error("expected a value", token)

    def _peek(self) -> _Token:
        return self._ahead

    def _next(self) -> _Token:
        token = self._ahead
        self._ahead = next(self._tokens, token)
        return token

    def _skip(self, *marks: str) -> bool:
        is_there = self._ahead.kind == "mark" and self._ahead.text in marks
        if is_there:
            self._next()
        return is_there

    def _error(self, what: str, token: _Token | None = None) -> ValueError:
        token = token or self._peek()
        found = repr(token.text[:20]) if token.text else "the end"
        return ValueError(f"line {token.line}: {what}, found {found}")


def _number(token: _Token) -> int | float:
    """Return a number; as in C, a whole one that begins with 0 is octal, or hexadecimal if it begins with 0x."""
    text = token.text.lower()
    digits = text.lstrip("+-")
    if re.match("0[0-9x]", digits) is None:
        return int(text) if digits.isdecimal() and len(digits) < MAX_DIGITS else float(text.removesuffix("f"))
    try:
        number = int(digits, 16) if digits.startswith("0x") else int(digits, 8)
    except ValueError as error:
        raise ValueError(
            f"line {token.line}: {token.text[:40]!r} is not a number: behind a 0 in front, digits are octal, 0 to 7"
        ) from error
    if number > MAX_WHOLE:
        raise ValueError(f"line {token.line}: {token.text[:40]!r} has more than 64 bits")
    return -number if text.startswith("-") else number


def _text(parts: list[_Token]) -> str:
    """Join texts as bytes: a letter's bytes may be written one by one."""
    try:
        return b"".join(_ESCAPE.sub(_unescaped, part.text[1:-1]).encode("utf-8", _BYTES) for part in parts).decode(
            "utf-8", _BYTES
        )
    except ValueError as error:
        raise ValueError(
            f"line {parts[0].line}: {parts[0].text[:40]} names a code point that does not exist"
        ) from error


def _unescaped(escape: re.Match[str]) -> str:
    octal, hexadecimal, short, long, letter = escape.groups()
    if octal or hexadecimal:
        return bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)]).decode("utf-8", _BYTES)
    if short or long:
        code = chr(int(short or long, 16))
        code.encode()  # halves of a pair are no letters
        return code
    return ESCAPES.get(letter, escape[0])
