"""The grammar of mapping tables: every mistake is refused, with the file and the line it is in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources

import pytest

from converter.errors import MappingError
from converter.identify.families import DETECTOR
from converter.plan.table import load_table, parse_table

TABLE = """\
version: 1
kinds:
  conv:
    weight: {from: kernel, op: conv, shape: [k, k, in, out]}
    bias: {from: bias, op: redundant_bias, shape: [out]}
  batch_norm:
    weight: {from: gamma, op: keep, shape: [out]}
    running_mean: {from: moving_mean, op: fold_bias, shape: [out]}
    count: {op: zero_count}
  pair:
    edge: {from: [A, B], op: stack, shape: []}
groups:
- name: first
  for_each: [block]
  when: expands
  tf: "{backbone}/blocks_{flat}"
  torch: "blocks.{flat}"
  rows:
  - [conv2d, conv, conv, {k: 1, in: 3, out: in_channels}]
  - ["", bn, batch_norm, {out: in_channels, folds: conv2d/bias, when: not expands}]
- name: second
  tf: root
  torch: ""
  rows:
  - [scope, module, pair, {}]
views:
  raw: "{variable}"
  ema: "{variable}/EMA"
ignored:
- ["{variable}/slot", why]
- [step, because]
training_step: step
recognition:
  backbone: {which: "{backbone}/stem"}
  fpn_channels: {size_of: a/b, axis: 3}
  fpn_cells: {count: "cell_{n}", first: 0}
  head_repeats: {count: "head_{n}", first: 0}
  num_levels: {count: "level_{n}", first: 3}
  weighted: {exists: a/WSM}
  class_channels: {size_of: a/c, axis: 0}
  box_channels: {size_of: a/d, axis: 0}
"""


def parse(text: str) -> object:
    return parse_table(text.encode(), "mine")


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


def test_reads_every_part_of_a_table() -> None:
    table = parse_table(TABLE.encode(), "mine")
    first, second = table.groups
    assert (table.name, table.version, table.training_step) == ("mine", 1, "step")
    assert list(table.kinds) == ["conv", "batch_norm", "pair"]
    assert [(p.target, p.sources, p.op, p.shape) for p in table.kinds["pair"]] == [("edge", ("A", "B"), "stack", ())]
    assert table.kinds["batch_norm"][2].sources == ()
    assert (first.name, first.for_each, first.when) == ("first", ("block",), "expands")
    assert first.where == "mappings/mine.yaml, line 13"
    conv, norm = first.rows
    assert (conv.tf, conv.torch, conv.kind) == ("{backbone}/blocks_{flat}/conv2d", "blocks.{flat}.conv", "conv")
    assert (conv.sizes, conv.when, conv.folds) == ({"k": 1, "in": 3, "out": "in_channels"}, "", "")
    assert conv.where == "mappings/mine.yaml, line 19"
    assert (norm.tf, norm.torch, norm.when) == ("{backbone}/blocks_{flat}", "blocks.{flat}.bn", "not expands")
    assert norm.folds == "{backbone}/blocks_{flat}/conv2d/bias"
    assert (second.rows[0].tf, second.rows[0].torch, second.for_each) == ("root/scope", "module", ())
    assert table.views == {"raw": "{variable}", "ema": "{variable}/EMA"}
    assert table.ignored == (("{variable}/slot", "why"), ("step", "because"))
    assert table.recognition["fpn_cells"] == {"count": "cell_{n}", "first": 0}


def test_the_checksum_is_of_the_text() -> None:
    same, other = parse_table(TABLE.encode(), "mine"), parse_table((TABLE + "# more\n").encode(), "mine")
    assert len(same.sha256) == 64
    assert same.sha256 == parse_table(TABLE.encode(), "other").sha256 != other.sha256


def test_the_table_of_the_project_is_read_once_and_named() -> None:
    table = DETECTOR.table
    assert table is DETECTOR.table
    text = (resources.files("mappings") / "efficientnet.yaml").read_text()
    row = table.groups[0].rows[0]
    assert (row.tf, row.torch) == ("{backbone}/stem/conv2d", "backbone.conv_stem")
    file, line = row.where.split(", line ")
    assert file == "mappings/efficientnet.yaml"
    assert text.splitlines()[int(line) - 1].strip().startswith("- [conv2d,")


MORE = """\
version: 2
include: [efficientnet, under.this]
kinds:
  own: {}
groups:
- {name: mine, tf: "", torch: "", rows: [[scope, module, own, {}], [other, bn, batch_norm, {out: 3}]]}
recognition:
""" + TABLE.partition('/stem"}\n')[2]


def test_a_table_takes_in_another_one() -> None:
    base, table = load_table("efficientnet"), parse_table(MORE.encode(), "mine")
    assert base.groups[0].rows[0].torch == "conv_stem"
    assert table.groups[0].rows[0].torch == "under.this.conv_stem"
    assert [group.name for group in table.groups] == [*(group.name for group in base.groups), "mine"]
    assert list(table.kinds) == [*base.kinds, "own"]
    assert (table.views, table.ignored, table.training_step) == (base.views, base.ignored, base.training_step)
    assert list(table.recognition) == list(parse_table(TABLE.encode(), "mine").recognition)
    assert table.sha256 != parse_table(MORE.replace("this", "that").encode(), "mine").sha256


def test_an_included_table_that_changes_changes_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parse_table(MORE.encode(), "mine").sha256
    other = replace(load_table("efficientnet"), sha256="0" * 64)
    monkeypatch.setattr("converter.plan.table.load_table", lambda _: other)
    assert parse_table(MORE.encode(), "mine").sha256 != before


# What is wrong -> (how to do it wrong, line of the error, words that its text must have).
MISTAKES: dict[str, tuple[Callable[[str], str], int, str]] = {
    "key twice": (replaced("views:\n", "views:\n  raw: x\n"), 28, "'raw' stands twice"),
    "section twice": (lambda text: text + "version: 2\n", 42, "'version' stands twice"),
    "tensor twice": (replaced("    bias:", "    weight:"), 5, "'weight' stands twice"),
    "section unknown": (replaced("version: 1", "vresion: 1"), 1, "'vresion' is unknown"),
    "section missing": (replaced("training_step: step\n", ""), 1, "'training_step' is missing"),
    "version text": (replaced("version: 1", "version: one"), 1, "expected an integer, found 'one'"),
    "version in another base": (replaced("version: 1", "version: 0x1"), 1, "expected an integer, found '0x1'"),
    "kind no mapping": (
        replaced("  pair:\n    edge: {from: [A, B], op: stack, shape: []}", "  pair: x"),
        10,
        "mapping",
    ),
    "operation unknown": (replaced("op: conv,", "op: cnov,"), 4, "'cnov' does not exist; known are keep, conv"),
    "operation missing": (replaced("op: conv, ", ""), 4, "'op' is missing"),
    "operation of another rank": (
        replaced("[k, k, in, out]", "[k, in, out]"),
        4,
        "does not take 1 sources with 3 axes",
    ),
    "operation drops a source": (replaced("from: gamma", "from: [gamma, beta]"), 7, "does not take 2 sources"),
    "operation without source": (replaced("{op: zero_count}", "{op: keep}"), 9, "does not take 0 sources"),
    "source without shape": (replaced(", shape: []", ""), 11, "'from' and 'shape' belong together"),
    "shape without source": (replaced("{op: zero_count}", "{op: zero_count, shape: []}"), 9, "belong together"),
    "part key unknown": (replaced("from: gamma", "form: gamma"), 7, "'form' is unknown"),
    "source is False": (replaced("from: gamma", "from: no"), 7, "expected a name, found 'no'; put it into quotes"),
    "source is a number": (replaced("from: gamma", "from: 1"), 7, "expected a name, found '1'"),
    "shape is text": (replaced("shape: [out]}", "shape: out}"), 5, "expected a list"),
    "shape has a float": (replaced("[k, k, in", "[k, 1.5, in"), 4, "expected a name, found '1.5'"),
    "kind unknown": (
        replaced("pair, {}", "pear, {}"),
        25,
        "kind 'pear' does not exist; known are conv, batch_norm, pair",
    ),
    "include alone": (
        lambda _: MORE.replace("[efficientnet, under.this]", "[efficientnet]"),
        2,
        "[name, PyTorch module]",
    ),
    "include unknown": (lambda _: MORE.replace("[efficientnet,", "[mobilenet,"), 2, "'mobilenet' cannot be included"),
    "include of a path": (lambda _: MORE.replace("[efficientnet,", "[../efficientnet,"), 2, "cannot be included"),
    "include of itself": (lambda _: MORE.replace("[efficientnet,", "[mine,"), 2, "'mine' cannot be included"),
    "kind of the included table": (lambda _: MORE.replace("own", "block"), 4, "'block' is defined in the included"),
    "kind unused": (
        replaced("  rows:\n  - [scope, module, pair, {}]\n", "  rows: []\n"),
        11,
        "kind 'pair' is used by no row",
    ),
    "group key unknown": (replaced("for_each:", "foreach:"), 14, "'foreach' is unknown"),
    "group key missing": (replaced("  tf: root\n", ""), 21, "'tf' is missing"),
    "groups a mapping": (replaced("for_each: [block]", "for_each: {a: b}"), 14, "expected a list"),
    "condition is False": (replaced("when: expands", "when: off"), 15, "expected a name, found 'off'"),
    "row too short": (replaced("[scope, module, pair, {}]", "[scope, module, pair]"), 25, "found 3 cells"),
    "row too long": (replaced("pair, {}]", "pair, {}, x]"), 25, "found 5 cells"),
    "row no list": (replaced("- [scope, module, pair, {}]", "- scope"), 25, "expected a list"),
    "row without scope": (replaced("[scope,", "[~,"), 25, "expected a name, found '~'"),
    "sizes no mapping": (replaced("pair, {}]", "pair, k]"), 25, "expected a mapping"),
    "size missing": (replaced("{k: 1, in: 3, out", "{k: 1, out"), 19, "'in' is missing"),
    "all sizes missing": (replaced("{k: 1, in: 3, out: in_channels}", "{}"), 19, "'in' is missing"),
    "size unknown": (replaced("{k: 1,", "{k: 1, j: 2,"), 19, "'j' is unknown"),
    "size negative": (replaced("k: 1", "k: -1"), 19, "expected an integer, found '-1'"),
    "folds without batch norm": (replaced("pair, {}", "pair, {folds: x}"), 25, "has no fold_bias"),
    "view missing": (replaced('  ema: "{variable}/EMA"\n', ""), 27, "'ema' is missing"),
    "view unknown": (replaced("  ema:", "  eam:"), 28, "'eam' is unknown"),
    "view placeholder": (
        replaced('"{variable}/EMA"', '"{varaible}/EMA"'),
        28,
        "the only placeholder here is {variable}",
    ),
    "ignored without reason": (replaced(", because", ""), 31, "the reason must be written"),
    "ignored with empty reason": (replaced("because", '" "'), 31, "the reason must be written"),
    "ignored by a number": (replaced("[step,", "[7,"), 31, "expected a name, found '7'"),
    "probe unknown": (replaced("exists: a/WSM", "is: a/WSM"), 39, "this row has is; expected one of: which;"),
    "probe empty": (replaced("{exists: a/WSM}", "{}"), 39, "this row has nothing"),
    "probe incomplete": (replaced("a/b, axis: 3", "a/b"), 35, "this row has size_of; expected one of"),
    "probe axis": (replaced("a/b, axis: 3", "a/b, axis: x"), 35, "expected an integer, found 'x'"),
    "count without number": (replaced("cell_{n}", "cell_0"), 36, "'count' needs the placeholder {n}"),
    "count of something else": (replaced("cell_{n}", "cell_{n}_{m}"), 36, "the only placeholder here is {n}"),
    "which without placeholder": (replaced("{backbone}/stem", "stem"), 34, "'which' needs one placeholder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_refuses_with_file_and_line(mistake: str) -> None:
    spoil, line, words = MISTAKES[mistake]
    text = spoil(TABLE)
    assert text != TABLE, "the mistake was not made"
    with pytest.raises(MappingError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"mappings/mine.yaml, line {line}: ")
    assert words in str(caught.value)


def test_every_table_above_is_right_but_for_its_mistake() -> None:
    """Negative control: the same text without a mistake is no error."""
    parse(TABLE)


@pytest.mark.parametrize("text", ["a: [", "a: b\n---\nc: d\n", "a: *nobody", "%", "\x00"])
def test_refuses_what_is_not_one_yaml_document(text: str) -> None:
    with pytest.raises(MappingError, match=re.escape("mappings/mine.yaml is not YAML: ")):
        parse(text)


@pytest.mark.parametrize("text", ["", "- a", "word"])
def test_refuses_what_is_no_mapping(text: str) -> None:
    with pytest.raises(MappingError, match=r"^mappings/mine.yaml(, line 1)?: expected a mapping"):
        parse(text)
