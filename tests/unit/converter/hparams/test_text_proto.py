"""Protocol buffers as text."""

from __future__ import annotations

import pytest

from converter.hparams.text_proto import MAX_DEPTH, MAX_TOKENS, Fields, parse_text_proto

FORMS: dict[str, tuple[str, Fields]] = {
    "numbers": ("a: 1 b: -2.5 c: 1e-8 d: .5f e: 0x1F", {"a": [1], "b": [-2.5], "c": [1e-8], "d": [0.5], "e": [31]}),
    "words": ("a: true b: SWISH c: -inf", {"a": ["true"], "b": ["SWISH"], "c": ["-inf"]}),
    "texts": (r"""a: "x" 'y' "z\"" b: '' """, {"a": ['xyz"'], "b": [""]}),
    "a message": ("a { b: 1 }", {"a": [{"b": [1]}]}),
    "a message with a colon": ("a: { b: 1 }", {"a": [{"b": [1]}]}),
    "a message in angle brackets": ("a < b: 1 >", {"a": [{"b": [1]}]}),
    "a repeated field": ("a: 1 a: 2", {"a": [1, 2]}),
    "a list": ("a: [1.0, 2, 0.5] b: []", {"a": [1.0, 2, 0.5], "b": []}),
    "a list of one": (
        "a: [1] b: [.5], c: [WORD] d: [x]e: 2",
        {"a": [1], "b": [0.5], "c": ["WORD"], "d": ["x"], "e": [2]},
    ),
    "a list of messages": ("a: [{ b: 1 }, { b: 2 }]", {"a": [{"b": [1]}, {"b": [2]}]}),
    "separators": ("a: 1, b: 2; c { d: 3, }", {"a": [1], "b": [2], "c": [{"d": [3]}]}),
    "comments": ("# a: 1\nb: 2 # c: 3\n#", {"b": [2]}),
    "an extension": ("[object_detection.protos.x] { a: 1 }", {"[object_detection.protos.x]": [{"a": [1]}]}),
    "an extension with a colon": ("[a.b] : { c: 1 }", {"[a.b]": [{"c": [1]}]}),
    "nothing": (" \n", {}),
}
MISTAKES = {
    "an open message": ("a {\n b: 1", "line 2: expected the name of a field or '}', found the end"),
    "a closing mark too many": ("a: 1 }", "line 1: expected the name of a field or 'the end', found '}'"),
    "the wrong closing mark": ("a { b: 1 >", "line 1: expected the name of a field or '}', found '>'"),
    "no colon": ("\n\na 1", "line 3: expected ':' after a, found '1'"),
    "no value": ("a: }", "line 1: expected a value, found '}'"),
    "no comma": ("a: [1 2]", "line 1: expected ',' or ']', found '2'"),
    "an open list": ("a: [1,", "line 1: expected a value, found the end"),
    "an open text": ('a: "x', "line 1: '\"x' cannot be read"),
    "a character of another kind": ("a: 1\nb: \x00", "line 2: '\\x00' cannot be read"),
    "a name that is a number": ("1: 1", "line 1: expected the name of a field or 'the end', found '1'"),
    "too many levels": ("a {" * (MAX_DEPTH + 2), f"line 1: more than {MAX_DEPTH} messages in each other, found 'a'"),
    "too many tokens": ("a:1 " * (MAX_TOKENS // 3 + 1), f"line 1: more than {MAX_TOKENS} words and marks"),
}


@pytest.mark.parametrize("form", FORMS)
def test_reads_every_form(form: str) -> None:
    text, expected = FORMS[form]
    assert parse_text_proto(text) == expected


@pytest.mark.parametrize("mistake", MISTAKES)
def test_refuses_with_the_line(mistake: str) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_text_proto(text)
    assert str(error.value) == message
