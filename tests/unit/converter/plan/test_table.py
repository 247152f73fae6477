"""The grammar of mapping tables: every mistake is refused, with the file and the line it is in."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import pytest

from converter.errors import MappingError
from converter.identify.families import DETECTOR
from converter.plan.grammar import load_table, parse_table

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
    assert table.ignored == (("{variable}/slot", "why", ""), ("step", "because", ""))
    assert table.recognition["fpn_cells"] == {"count": "cell_{n}", "first": 0}


def test_a_row_of_the_project_names_its_file_and_line() -> None:
    row = DETECTOR.table.groups[0].rows[0]
    assert (row.tf, row.torch) == ("{backbone}/stem/conv2d", "backbone.conv_stem")
    file, line = row.where.split(", line ")
    assert file == "mappings/efficientnet.yaml"
    text = (resources.files("mappings") / "efficientnet.yaml").read_text()
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


def test_a_table_includes_another_one() -> None:
    base, table = load_table("efficientnet"), parse_table(MORE.encode(), "mine")
    assert base.groups[0].rows[0].torch == "conv_stem"
    assert table.groups[0].rows[0].torch == "under.this.conv_stem"
    assert [group.name for group in table.groups] == [*(group.name for group in base.groups), "mine"]
    assert list(table.kinds) == [*base.kinds, "own"]
    assert (table.views, table.ignored, table.training_step) == (base.views, base.ignored, base.training_step)
    assert list(table.recognition) == list(parse_table(TABLE.encode(), "mine").recognition)
    assert set(table.recognition) - table.included_questions == set(table.recognition) - {"backbone"}


def test_the_checksum_depends_on_the_text_and_the_included_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def checksum(text: str, name: str = "mine") -> str:
        return parse_table(text.encode(), name).sha256

    assert len(checksum(TABLE)) == 64
    assert checksum(TABLE) == checksum(TABLE, "other") != checksum(TABLE + "# more\n")
    before = checksum(MORE)
    assert before != checksum(MORE.replace("this", "that"))
    other = replace(load_table("efficientnet"), sha256="0" * 64)
    monkeypatch.setattr("converter.plan.grammar.load_table", lambda _: other)
    assert checksum(MORE) != before


def test_a_table_like_another_one_has_its_kinds_and_not_its_rows() -> None:
    base = load_table("efficientdet")
    text = b"""version: 1
like: efficientdet
kinds:
  arranged:
    weight: {from: kernel, op: arranged_conv, shape: [k, k, in, out]}
groups:
- {name: one, tf: a, torch: b, rows: [[c, d, arranged, {k: 1, in: 2, out: 3, channels: order}], [e, f, block, {}]]}
ignored:
- ["g_{number}/", why, level]
recognition: {weighted: {exists: a}}
"""
    table = parse_table(text, "mine")
    assert table.kinds == base.kinds | {"arranged": table.kinds["arranged"]}
    assert (len(table.groups), list(table.recognition), table.state_dict) == (1, ["weighted"], {})
    assert [row.channels for row in table.groups[0].rows] == ["order", ""]
    assert table.ignored == (*base.ignored, ("g_{number}/", "why", "level"))
    assert (table.views, table.training_step) == (base.views, base.training_step)
    assert table.sha256 != parse_table(text.replace(b"why", b"because"), "mine").sha256
    with pytest.raises(MappingError, match=r"line 7: .*'channels' is missing"):
        parse_table(text.replace(b", channels: order", b""), "mine")


# What is wrong -> (old text, new text, line of the error, words of the error).
MISTAKES: dict[str, tuple[str, str, int, str]] = {
    "duplicate key": ("views:\n", "views:\n  raw: x\n", 28, "duplicate key 'raw'"),
    "absence without values": ("  tf: root\n", "  tf: root\n  absent: [part]\n", 23, "expected [part, initial values]"),
    "absence with a number": ("  tf: root\n", "  tf: root\n  absent: [part, {A: 0}]\n", 23, "put it in quotes"),
    "duplicate section": ("ignored:\n", "version: 2\nignored:\n", 29, "duplicate key 'version'"),
    "duplicate tensor": ("    bias:", "    weight:", 5, "duplicate key 'weight'"),
    "section unknown": ("version: 1", "vresion: 1", 1, "unknown key 'vresion'"),
    "section missing": ("training_step: step\n", "", 1, "'training_step' is missing"),
    "version text": ("version: 1", "version: one", 1, "expected an integer, found 'one'"),
    "version in another base": ("version: 1", "version: 0x1", 1, "expected an integer, found '0x1'"),
    "kind is text": ("    edge: {from: [A, B], op: stack, shape: []}", "    x", 11, "expected a mapping"),
    "operation unknown": ("op: conv,", "op: cnov,", 4, "unknown operation 'cnov'; known are keep, conv"),
    "operation missing": ("op: conv, ", "", 4, "'op' is missing"),
    "operation of another rank": ("[k, k, in, out]", "[k, in, out]", 4, "cannot take 1 sources with 3 axes"),
    "operation drops a source": ("from: gamma", "from: [gamma, beta]", 7, "cannot take 2 sources"),
    "operation without source": ("{op: zero_count}", "{op: keep}", 9, "cannot take 0 sources"),
    "source without shape": (", shape: []", "", 11, "'from' and 'shape' belong together"),
    "shape without source": ("{op: zero_count}", "{op: zero_count, shape: []}", 9, "belong together"),
    "part key unknown": ("from: gamma", "form: gamma", 7, "unknown key 'form'"),
    "source is False": ("from: gamma", "from: no", 7, "expected a name, found 'no'; put it in quotes"),
    "source is a number": ("from: gamma", "from: 1", 7, "expected a name, found '1'"),
    "shape is text": ("shape: [out]}", "shape: out}", 5, "expected a list"),
    "shape has a float": ("[k, k, in", "[k, 1.5, in", 4, "expected a name, found '1.5'"),
    "kind unknown": ("pair, {}", "pear, {}", 25, "unknown kind 'pear'; known are conv, batch_norm, pair"),
    "kind unused": ("pair, {}", "batch_norm, {out: 1}", 11, "no row uses the kind 'pair'"),
    "group key unknown": ("for_each:", "foreach:", 14, "unknown key 'foreach'"),
    "group key missing": ("  tf: root\n", "", 21, "'tf' is missing"),
    "groups a mapping": ("for_each: [block]", "for_each: {a: b}", 14, "expected a list"),
    "condition is False": ("when: expands", "when: off", 15, "expected a name, found 'off'"),
    "row too short": ("[scope, module, pair, {}]", "[scope, module, pair]", 25, "kind, sizes]; found 3 cells"),
    "row too long": ("pair, {}]", "pair, {}, x]", 25, "found 5 cells"),
    "row is text": ("- [scope, module, pair, {}]", "- scope", 25, "expected a list"),
    "row without scope": ("[scope,", "[~,", 25, "expected a name, found '~'"),
    "sizes are text": ("pair, {}]", "pair, k]", 25, "expected a mapping"),
    "size missing": ("{k: 1, in: 3, out", "{k: 1, out", 19, "'in' is missing"),
    "all sizes missing": ("{k: 1, in: 3, out: in_channels}", "{}", 19, "'in' is missing"),
    "size unknown": ("{k: 1,", "{k: 1, j: 2,", 19, "unknown key 'j'"),
    "size negative": ("k: 1", "k: -1", 19, "expected an integer, found '-1'"),
    "folds without batch norm": ("pair, {}", "pair, {folds: x}", 25, "has no fold_bias"),
    "view missing": ('  ema: "{variable}/EMA"\n', "", 27, "'ema' is missing"),
    "view unknown": ("  ema:", "  eam:", 28, "unknown key 'eam'"),
    "view placeholder": ('"{variable}/EMA"', '"{varaible}/EMA"', 28, "only placeholder allowed here is {variable}"),
    "ignored without reason": (", because", "", 31, "expected [name, reason]; found 1 cells"),
    "ignored with empty reason": ("because", '" "', 31, "the reason to ignore 'step' is empty"),
    "ignored by a number": ("[step,", "[7,", 31, "expected a name, found '7'"),
    "rule unknown": ("exists: a/WSM", "is: a/WSM", 39, "this rule has is; expected one of: which;"),
    "rule empty": ("{exists: a/WSM}", "{}", 39, "this rule has nothing"),
    "condition unknown": ("exists: a/WSM", "exists: a/WSM, when: x", 39, "the condition 'x' is not a question above"),
    "condition below": ("exists: a/WSM", "exists: a/WSM, when: box_channels", 39, "is not a question above this one"),
    "condition itself": ("exists: a/WSM", "exists: a/WSM, when: weighted", 39, "is not a question above this one"),
    "rule incomplete": ("a/b, axis: 3", "a/b", 35, "this rule has size_of; expected one of"),
    "rule axis": ("a/b, axis: 3", "a/b, axis: x", 35, "expected an integer, found 'x'"),
    "rule first": ('cell_{n}", first: 0', 'cell_{n}", first: highest', 36, "expected an integer, found 'highest'"),
    "count of two names": (
        "[A, B], op: stack, shape: []",
        "[A, B], count: n, op: stack, shape: []",
        11,
        "'count' numbers",
    ),
    "count of one source": (
        "[A, B], op: stack, shape: []",
        "A, count: n, op: keep, shape: []",
        11,
        "cannot take 2 sources",
    ),
    "count without number": ("cell_{n}", "cell_0", 36, "'count' needs the placeholder {n}"),
    "count of something else": ("cell_{n}", "cell_{n}_{m}", 36, "unknown placeholder {m} in 'count'; expected {n}"),
    "channels of a kind that needs none": ("{k: 1, in: 3", "{channels: order, k: 1, in: 3", 19, "channels"),
    "which without placeholder": ("{backbone}/stem", "stem", 34, "'which' needs one placeholder"),
}
MISTAKES_OF_INCLUDES: dict[str, tuple[str, str, int, str]] = {
    "include alone": ("[efficientnet, under.this]", "[efficientnet]", 2, "expected [table, PyTorch module]"),
    "include unknown": ("[efficientnet,", "[mobilenet,", 2, "'mobilenet' cannot be included"),
    "include of a path": ("[efficientnet,", "[../efficientnet,", 2, "cannot be included"),
    "include of itself": ("[efficientnet,", "[mine,", 2, "'mine' cannot be included"),
    "like beside include": ("include:", "like: efficientdet\ninclude:", 2, "like another one, or includes one"),
    "like a path": ("include: [efficientnet, under.this]", "like: ../efficientdet", 2, "cannot be included"),
    "ignored over an axis, and more": (
        "kinds:",
        "ignored: [[a/, why, block, more]]\nkinds:",
        3,
        "expected [name, reason",
    ),
    "kind of the included table": ("own", "block", 4, "'block' is already defined in the included"),
}


@pytest.mark.parametrize("mistake", [*MISTAKES, *MISTAKES_OF_INCLUDES])
def test_refuses_with_file_and_line(mistake: str) -> None:
    right = TABLE if mistake in MISTAKES else MORE
    parse_table(right.encode(), "mine")  # negative control
    old, new, line, words = (MISTAKES | MISTAKES_OF_INCLUDES)[mistake]
    assert old in right
    with pytest.raises(MappingError) as caught:
        parse_table(right.replace(old, new, 1 if mistake in MISTAKES else -1).encode(), "mine")
    assert str(caught.value).startswith(f"mappings/mine.yaml, line {line}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "a: b\n---\nc: d\n", "a: *nobody", "%", "\x00"])
def test_refuses_anything_but_one_yaml_document(text: str) -> None:
    with pytest.raises(MappingError, match=r"mappings/mine\.yaml is not YAML: "):
        parse_table(text.encode(), "mine")


@pytest.mark.parametrize("text", ["", "- a", "word"])
def test_refuses_a_document_that_is_not_a_mapping(text: str) -> None:
    with pytest.raises(MappingError, match=r"^mappings/mine.yaml(, line 1)?: expected a mapping"):
        parse_table(text.encode(), "mine")


def test_other_keys_of_a_state_dict() -> None:
    table = parse_table((TABLE + "spellings:\n- ['^a(b)', 'c\\1']\n").encode(), "mine")
    assert [table.usual_key(key) for key in ("ab.ab", "ba")] == ["cb.ab", "ba"]
    assert parse_table(TABLE.encode(), "mine").usual_key("ab.ab") == "ab.ab"


@pytest.mark.parametrize("row", ["['(', a]", "['(a)', '\\2']", "[a]"])
def test_a_spelling_that_cannot_be_used_is_refused(row: str) -> None:
    with pytest.raises(MappingError, match=r"mappings/mine\.yaml, line \d+"):
        parse_table(f"{TABLE}spellings:\n- {row}\n".encode(), "mine")
