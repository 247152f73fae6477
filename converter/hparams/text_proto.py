"""Protocol buffers as text, as `pipeline.config` is written: names, values, and messages in braces.

Without the schema, a number, a word and a text are told apart by how they are written, and every field is a list.

Source: the text format specification of protocol buffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 32  # messages in messages; a pipeline has 8
MAX_TOKENS = 200_000  # a pipeline has some 600
MAX_DIGITS = 20  # of a whole number
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}  # in texts; of other characters, those by number are not decoded
CLOSING = {"{": "}", "<": ">"}
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)(?![\w.]))
    |(?P<word>-?[A-Za-z_][\w.]*|\[[\w./]+\](?=\s*[:{<]))
    |(?P<mark>[{}<>:,;\[\]])
    """,
    re.VERBOSE | re.ASCII,
)


class Word(str):
    """A name that stands as a value: an enum's, true, false."""

    __slots__ = ()


Fields = dict[str, list["str | int | float | Word | Fields"]]


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse_text_proto(text: str) -> Fields:
    """Return {field: values} of a message; texts that follow each other are one.

    Raises:
        ValueError: It is not such a message, or larger than any; the text has the line.
    """
    parser = _Parser(list(_tokens(text)))
    return parser.fields("", 0)


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
    """Reads tokens, one after another."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._place = tokens, 0

    def fields(self, closing: str, depth: int) -> Fields:
        """Return the fields up to a closing mark; "" is the end of the text."""
        if depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} messages in each other")
        fields: Fields = {}
        while (token := self._next()).text != closing or token.kind not in ("mark", "end"):
            if token.kind != "word":
                raise self._error(f"expected the name of a field or {closing or 'the end'!r}", token)
            has_colon = self._skip(":")
            if not has_colon and self._peek().text not in CLOSING:
                raise self._error(f"expected ':' after {token.text}", self._peek())
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
            return "".join(_text(part) for part in parts)
        if token.kind == "number":
            return _number(token.text.lower())
        if token.kind == "word":
            return Word(token.text)
        raise self._error("expected a value", token)

    def _peek(self) -> _Token:
        return self._tokens[self._place]

    def _next(self) -> _Token:
        token = self._tokens[self._place]
        if self._place < len(self._tokens) - 1:
            self._place += 1
        return token

    def _skip(self, *marks: str) -> bool:
        token = self._peek()
        is_there = token.kind == "mark" and token.text in marks
        if is_there:
            self._place += 1
        return is_there

    def _error(self, what: str, token: _Token | None = None) -> ValueError:
        token = token or self._peek()
        found = repr(token.text[:20]) if token.text else "the end"
        return ValueError(f"line {token.line}: {what}, found {found}")


def _number(text: str) -> int | float:
    digits = text.lstrip("+-")
    if digits.startswith("0x"):
        return int(text[: MAX_DIGITS + 2], 16)
    return int(text) if digits.isdecimal() and len(digits) < MAX_DIGITS else float(text.removesuffix("f"))


def _text(token: _Token) -> str:
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), token.text[1:-1])
