"""JSON and YAML that try to exhaust the reader: one kind of error, and soon."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from effdet_torch.untrusted.documents import MAX_VALUES, keys_twice, parse_json, parse_yaml


def doubling(first: str, rest: str, levels: int = 40) -> str:
    """Return a document in which every level holds the level below twice."""
    return "\n".join([first, *(rest.format(n=n, below=n - 1) for n in range(1, levels))])


def test_json() -> None:
    assert parse_json(b'{"a": [1, "\\u00e4"]}') == {"a": [1, "ä"]}
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    marked = parse_json('[{"a": 1, "b": {"c": 1}, "a": 2}, {"a": 2}]', mark_duplicates=True)
    assert marked == [{"a": 2, "b": {"c": 1}}, {"a": 2}]
    assert [keys_twice(x) for x in (*marked, marked[0]["b"], marked)] == [("a",), (), (), ()]
    for content in (b"", b"[1", b"\xff", b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(ValueError, match=r"."):
            parse_json(content)


def test_yaml() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {x: 1}}") == {"a": [1, 2], "b": [1, 2], "c": {"x": 1}}
    assert parse_yaml("1: a\n'1': b") == {1: "a", "1": "b"}
    assert parse_yaml("a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: *a, <<: *b, z: 3}")["c"] == {"x": 1, "y": 2, "z": 3}
    assert parse_yaml("{=: 1, '1': 2, 1: 3, 2.5: 4}") == {"=": 1, "1": 2, 1: 3, 2.5: 4}
    assert parse_yaml("") is None
    assert parse_yaml("[" * 50 + "]" * 50)  # negative control of "nested too deeply"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (doubling("a0: &a0 [x, x]", "a{n}: &a{n} [*a{below}, *a{below}]"), "more than 100000 values"),
        (doubling("a0: &a0 {x: 1}", "a{n}: &a{n} {{<<: [*a{below}, *a{below}]}}"), "more than 100000 values"),
        (doubling("- &a0 [x, x]", "- ? &a{n} !!python/tuple [*a{below}, *a{below}]\n  : 1"), "more than 100000 values"),
        ("&a [*a]", "contains it"),
        ("[" * 5000, "nested too deeply"),
        ("a: !!int ''", "index out of range"),
        ("a: !!timestamp x", "NoneType"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [", "expected the node content"),
        ("{[1]: 2}", "unhashable"),
        ("a:\n  b: 1\n  c: 2\n  b: 3", "duplicate key 'b' in the mapping of line 2"),
        ("1: cat\n01: dog", "duplicate key '1' = '01' in the mapping of line 1"),
        ("{1: cat, 1.0: dog}", "duplicate key '1' = '1.0'"),
        ("{0x1: cat, 1: dog}", "duplicate key '0x1' = '1'"),
        ("{0: cat, +0: dog}", "duplicate key '0' = '\\+0'"),
        ("{0: cat, -0: dog}", "duplicate key '0' = '-0'"),
        ("{true: cat, 1: dog}", "duplicate key 'true' = '1'"),
        ("{a: cat, 'a': dog}", "duplicate key 'a' in"),
        ("{=: cat, '=': dog}", "duplicate key '=' in"),
        ("[{2001-01-01: a, 2001-1-1 : b, 2001-01-01: c}]", "duplicate key '2001-01-01'"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_the_limit_counts_all_values() -> None:
    half = ", ".join(["1"] * (MAX_VALUES // 2))
    assert len(parse_yaml(f"- [{half[:-3]}]")[0]) < MAX_VALUES / 2
    with pytest.raises(ValueError, match="aliases count as often as they are used"):
        parse_yaml(f"- &a [{half}]\n- *a\n- *a")


def test_another_loader() -> None:
    class Loader(yaml.SafeLoader):
        """With one tag more."""

    def pair(loader: Loader, node: yaml.SequenceNode) -> tuple[object, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_constructor("!pair", pair)
    assert parse_yaml("? !pair [1, 2]\n: 1\n? !pair [1, 3]\n: 2", Loader) == {(1, 2): 1, (1, 3): 2}
    with pytest.raises(ValueError, match=r"duplicate key \[...\] in the mapping of line 1"):
        parse_yaml("? !pair [1, 2]\n: 1\n? !pair [1, 2.0]\n: 2", Loader)


YAML_PARTS = [*"a1\n[]{},", ": ", "- ", "? ", "  ", "&a ", "*a", "<<", "!!int ", "!!set ", "!!omap "]


@given(st.binary(max_size=40) | st.lists(st.sampled_from(YAML_PARTS), max_size=30).map("".join))
def test_whatever_a_document_holds_it_is_read_or_refused(content: bytes | str) -> None:
    for parse in (parse_json, parse_yaml):
        with suppress(ValueError):
            parse(content)


@given(st.recursive(st.none() | st.integers() | st.text("ab", max_size=3), lambda x: st.lists(x, max_size=3)))
def test_what_is_written_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == parse_yaml(yaml.safe_dump(value)) == value
