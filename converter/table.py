"""Read a mapping table: YAML -> checked dataclasses, every mistake with file and line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from converter.errors import MappingError
from converter.ops import OPS

Size = int | str  # a number, or the name of a quantity


@dataclass(frozen=True)
class Part:
    """One tensor of a kind: PyTorch suffix, TensorFlow suffixes, operation, TensorFlow shape of each source."""

    target: str
    sources: tuple[str, ...]
    op: str
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class Row:
    """One layer: TensorFlow scope and PyTorch module (templates), kind, sizes bound to the kind's letters."""

    tf: str
    torch: str
    kind: str
    sizes: Mapping[str, Size]
    when: str
    folds: str  # scope-relative name of the bias that this batch norm takes in; "" if there is none
    line: int


@dataclass(frozen=True)
class Group:
    """Rows that repeat over the product of some axes."""

    name: str
    for_each: tuple[str, ...]
    when: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A whole mapping table, checked on its own; `expand` binds it to a model config."""

    name: str
    version: int
    sha256: str
    kinds: Mapping[str, tuple[Part, ...]]
    groups: tuple[Group, ...]
    views: Mapping[str, str]
    ignored: tuple[tuple[str, str], ...]
    training_step: str
    recognition: Mapping[str, Mapping[str, Size]]


@cache
def load_table(name: str = "efficientdet") -> Table:
    """Read `mappings/<name>.yaml`.

    Raises:
        MappingError: The table breaks its grammar; the text names file, line and what is expected.
    """
    return parse_table((resources.files("mappings") / f"{name}.yaml").read_bytes(), name)


def parse_table(text: bytes, name: str) -> Table:
    """Parse a mapping table, see `load_table`."""
    return _Parser(f"mappings/{name}.yaml").table(text, name)


class _Parser:
    """Walks the YAML nodes instead of plain objects, because only nodes know their line and their duplicate keys."""

    def __init__(self, file: str) -> None:
        self.file = file

    def table(self, text: bytes, name: str) -> Table:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            root = self.mapping(yaml.compose(text, Loader=loader))
        except yaml.YAMLError as error:
            raise MappingError(f"{self.file} is not YAML: {error}") from error
        sections = ("version", "kinds", "groups", "views", "ignored", "training_step", "recognition")
        self.only(root, sections, required=sections)
        kinds = {key: self.kind(node) for key, node in self.mapping(root["kinds"]).items()}
        groups = tuple(self.group(node, kinds) for node in self.sequence(root["groups"]))
        if unused := set(kinds) - {row.kind for group in groups for row in group.rows}:
            raise self.error(root["kinds"], f"kind {min(unused)!r} is used by no row; remove it")
        return Table(
            name=name,
            version=self.integer(root["version"]),
            sha256=hashlib.sha256(text).hexdigest(),
            kinds=kinds,
            groups=groups,
            views={key: self.text(node) for key, node in self.mapping(root["views"]).items()},
            ignored=tuple(self.ignored(node) for node in self.sequence(root["ignored"])),
            training_step=self.text(root["training_step"]),
            recognition={key: self.probe(node) for key, node in self.mapping(root["recognition"]).items()},
        )

    def kind(self, node: yaml.Node) -> tuple[Part, ...]:
        return tuple(self.part(target, part) for target, part in self.mapping(node).items())

    def part(self, target: str, node: yaml.Node) -> Part:
        fields = self.mapping(node)
        self.only(fields, ("from", "op", "shape"), required=("op",))
        op = self.text(fields["op"])
        if op not in OPS:
            raise self.error(fields["op"], f"operation {op!r} does not exist; known are {', '.join(OPS)}")
        if "from" not in fields:
            return Part(target, (), op, ())
        self.only(fields, ("from", "op", "shape"), required=("shape",))
        source = fields["from"]
        names = self.sequence(source) if isinstance(source, yaml.SequenceNode) else [source]
        shape = tuple(self.size(size) for size in self.sequence(fields["shape"]))
        return Part(target, tuple(self.text(name) for name in names), op, shape)

    def group(self, node: yaml.Node, kinds: Mapping[str, tuple[Part, ...]]) -> Group:
        fields = self.mapping(node)
        self.only(fields, ("name", "for_each", "when", "tf", "torch", "rows"), required=("name", "tf", "torch", "rows"))
        scopes = self.text(fields["tf"]), self.text(fields["torch"])
        return Group(
            name=self.text(fields["name"]),
            for_each=tuple(self.text(axis) for axis in self.sequence(fields.get("for_each"))),
            when=self.text(fields["when"]) if "when" in fields else "",
            rows=tuple(self.row(row, scopes, kinds) for row in self.sequence(fields["rows"])),
        )

    def row(self, node: yaml.Node, scopes: tuple[str, str], kinds: Mapping[str, tuple[Part, ...]]) -> Row:
        cells = list(self.sequence(node))
        if len(cells) != 4:
            raise self.error(
                node, f"a row is [TensorFlow scope, PyTorch module, kind, sizes]; found {len(cells)} cells"
            )
        tf, torch, kind = (self.text(cell) for cell in cells[:3])
        if kind not in kinds:
            raise self.error(cells[2], f"kind {kind!r} does not exist; known are {', '.join(kinds)}")
        options = self.mapping(cells[3])
        letters = {size for part in kinds[kind] for size in part.shape if isinstance(size, str)}
        self.only(options, (*letters, "when", "folds"), required=tuple(sorted(letters)))
        if "folds" in options and not any(part.op == "fold_bias" for part in kinds[kind]):
            raise self.error(options["folds"], f"kind {kind!r} has no fold_bias, so it cannot fold a bias")
        return Row(
            tf=_join("/", scopes[0], tf),
            torch=_join(".", scopes[1], torch),
            kind=kind,
            sizes={letter: self.size(options[letter]) for letter in letters},
            when=self.text(options["when"]) if "when" in options else "",
            folds=_join("/", scopes[0], self.text(options["folds"])) if "folds" in options else "",
            line=node.start_mark.line + 1,
        )

    def ignored(self, node: yaml.Node) -> tuple[str, str]:
        cells = [self.text(cell) for cell in self.sequence(node)]
        if len(cells) != 2 or not cells[1].strip():
            raise self.error(node, "an ignored variable is [name, reason]; the reason must be written")
        return cells[0], cells[1]

    def probe(self, node: yaml.Node) -> Mapping[str, Size]:
        fields = self.mapping(node)
        self.only(fields, ("which", "size_of", "axis", "count", "first", "exists"))
        return {key: self.size(value) for key, value in fields.items()}

    def mapping(self, node: yaml.Node | None) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "expected a mapping")
        result: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = self.text(key_node)
            if key in result:
                raise self.error(key_node, f"key {key!r} stands twice")
            result[key] = value
        return result

    def sequence(self, node: yaml.Node | None) -> Iterator[yaml.Node]:
        if node is None:
            return iter(())
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "expected a list")
        return iter(node.value)

    def text(self, node: yaml.Node) -> str:
        # YAML reads `no` as False and `1` as a number: a name must really be a string.
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self.error(node, f"expected a name, found {getattr(node, 'value', None)!r}; put it into quotes")
        return str(node.value)

    def integer(self, node: yaml.Node) -> int:
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:int":
            raise self.error(node, f"expected an integer, found {getattr(node, 'value', None)!r}")
        return int(node.value)

    def size(self, node: yaml.Node) -> Size:
        return self.integer(node) if node.tag == "tag:yaml.org,2002:int" else self.text(node)

    def only(self, found: Mapping[str, Any], known: tuple[str, ...], required: tuple[str, ...] = ()) -> None:
        if unknown := sorted(set(found) - set(known)):
            raise self.error(found[unknown[0]], f"key {unknown[0]!r} is unknown here; known are {', '.join(known)}")
        if absent := [key for key in required if key not in found]:
            anchor = next(iter(found.values()), None)
            raise self.error(anchor, f"key {absent[0]!r} is missing")

    def error(self, node: yaml.Node | None, text: str) -> MappingError:
        line = f", line {node.start_mark.line + 1}" if node is not None else ""
        return MappingError(f"{self.file}{line}: {text}")


def _join(separator: str, *parts: str) -> str:
    return separator.join(part for part in parts if part)
