"""Protocol buffers as text."""

from __future__ import annotations

import warnings

import pytest

from effdet_torch.untrusted.text_proto import MAX_DEPTH, MAX_TOKENS, Fields, parse_text_proto

FORMS: dict[str, tuple[str, Fields]] = {
    "numbers": ("a: 1 b: -2.5 c: 1e-8 d: .5f e: 0x1F", {"a": [1], "b": [-2.5], "c": [1e-8], "d": [0.5], "e": [31]}),
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
    """The package that TensorFlow reads such files with."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{form}.proto", package="test", syntax="proto2")
    message = file.message_type.add(name="Texts")
    for number, name in enumerate("abc", start=1):
        message.field.add(name=name, number=number, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    texts = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Texts"))()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of unknown escapes
        text_format.Parse(FORMS[form][0], texts)
    assert {field.name: [value] for field, value in texts.ListFields()} | {
        name: [""] for name in FORMS[form][1] if texts.HasField(name) and not getattr(texts, name)
    } == parse_text_proto(FORMS[form][0])
