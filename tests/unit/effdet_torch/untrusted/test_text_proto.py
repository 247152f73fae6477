"""Protocol buffers as text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import pytest

from effdet_torch.untrusted.text_proto import MAX_DEPTH, MAX_TOKENS, Fields, parse_text_proto

FORMS: dict[str, tuple[str, Fields]] = {
    "numbers": ("a: 1 b: -2.5 c: 1e-8 d: .5f e: 0x1F", {"a": [1], "b": [-2.5], "c": [1e-8], "d": [0.5], "e": [31]}),
    "octal and hexadecimal": (
        "a: 010 b: -017 c: 00 d: -0x1f e: 0XfFfFfFfFfFfFfFfF",
        {"a": [8], "b": [-15], "c": [0], "d": [-31], "e": [2**64 - 1]},
    ),
    "words": ("a: true b: SWISH c: -inf", {"a": ["true"], "b": ["SWISH"], "c": ["-inf"]}),
    "texts": (r"""a: "x" 'y' "z\"" b: '' """, {"a": ['xyz"'], "b": [""]}),
    "escapes": (
        r"""a: "\a\b\f\n\r\t\v\\\'\"" b: "\303\244\xc3\xA4\u00e4\U0001F600" c: "\0011\x411" """,
        {"a": ["\a\b\f\n\r\t\v\\'\""], "b": ["äää😀"], "c": ["\x011A1"]},
    ),
    "an unknown escape": (r'a: "C:\data\q"', {"a": [r"C:\data\q"]}),
    "bytes of a letter in two texts": (r'a: "\303" "\244"', {"a": ["ä"]}),
    "bytes that are not UTF-8": (r'a: "\344"', {"a": ["\udce4"]}),
    "a message": ("a { b: 1 }", {"a": [{"b": [1]}]}),
    "a message with a colon": ("a: { b: 1 }", {"a": [{"b": [1]}]}),
    "a message in angle brackets": ("a < b: 1 >", {"a": [{"b": [1]}]}),
    "a repeated field": ("a: 1 a: 2", {"a": [1, 2]}),
    "a list": ("a: [1.0, 2, 0.5] b: []", {"a": [1.0, 2, 0.5], "b": []}),
    "a list of one": (
        "a: [1] b: [.5], c: [WORD] d: [x]e: 2",
        {"a": [1], "b": [0.5], "c": ["WORD"], "d": ["x"], "e": [2]},
    ),
    "a list of messages without a colon": ("a [{ b: 1 }]", {"a": [{"b": [1]}]}),
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
    "half of a pair": (r'a: "\ud800"', 'line 1: "\\ud800" names a code point that does not exist'),
    "a character of another kind": ("a: 1\nb: \x00", "line 2: '\\x00' cannot be read"),
    "a digit that is not octal": (
        "\na: 08",
        "line 2: '08' is not a number: behind a 0 in front, digits are octal, 0 to 7",
    ),
    "a fraction that looks octal": (
        "a: 010.5",
        "line 1: '010.5' is not a number: behind a 0 in front, digits are octal, 0 to 7",
    ),
    "a large hexadecimal number": (f"a: 0x1{16 * '0'}", f"line 1: '0x1{16 * '0'}' has more than 64 bits"),
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


@pytest.mark.parametrize("form", ["escapes", "an unknown escape", "texts", "bytes of a letter in two texts"])
def test_texts_are_those_of_protobuf(form: str) -> None:
    assert parsed_by_protobuf(FORMS[form][0], "TYPE_STRING") == parse_text_proto(FORMS[form][0])


@pytest.mark.parametrize("number", ["0", "7", "010", "-017", "00", "0x1F", "-0X1f", "08", "0x", "0xfg", "012345678"])
def test_whole_numbers_are_those_of_protobuf(number: str) -> None:
    theirs = partial(parsed_by_protobuf, field_type="TYPE_INT64")
    assert parsed(theirs, f"a: {number}") == parsed(parse_text_proto, f"a: {number}")


def parsed(parse: Callable[[str], Fields], text: str) -> Fields | None:
    try:
        return parse(text)
    except ValueError:
        return None


def parsed_by_protobuf(text: str, field_type: str) -> Fields:
    """Read optional fields a, b, c with the package that TensorFlow reads such files with; ValueError if it cannot."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test", syntax="proto2")
    message = file.message_type.add(name="Fields")
    for number, name in enumerate("abc", start=1):
        message.field.add(name=name, number=number, type=kind.Type.Value(field_type), label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    fields = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Fields"))()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of unknown escapes
        try:
            text_format.Parse(text, fields)
        except text_format.ParseError as error:
            raise ValueError(str(error)) from error
    return {field.name: [value] for field, value in fields.ListFields()}
