"""Read a mapping table: YAML -> checked dataclasses, every mistake with file and line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from converter.errors import MappingError
from converter.ops import OPS
from converter.yaml_nodes import NodeReader, Size

SECTIONS = ("version", "kinds", "groups", "views", "ignored", "training_step", "recognition")
VIEWS = ("raw", "ema")
# What a table must tell of a model by names and shapes, and what its rows can look for.
QUESTIONS = (
    "backbone",
    "fpn_channels",
    "fpn_cells",
    "head_repeats",
    "num_levels",
    "weighted",
    "class_channels",
    "box_channels",
)
PROBES = (("which",), ("size_of", "axis"), ("count", "first"), ("exists",))


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
    line: int


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


class _Parser(NodeReader):
    """The grammar: one method per construct."""

    def table(self, text: bytes, name: str) -> Table:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            node = yaml.compose(text, Loader=loader)
        except yaml.YAMLError as error:
            raise MappingError(f"{self.file} is not YAML: {error}") from error
        root = self.fields(node, SECTIONS, required=SECTIONS)
        kind_nodes = self.mapping(root["kinds"])
        kinds = {key: self.kind(node) for key, node in kind_nodes.items()}
        groups = tuple(self.group(node, kinds) for node in self.sequence(root["groups"]))
        if unused := set(kinds) - {row.kind for group in groups for row in group.rows}:
            raise self.error(kind_nodes[min(unused)], f"kind {min(unused)!r} is used by no row; remove it")
        return Table(
            name=name,
            version=self.integer(root["version"]),
            sha256=hashlib.sha256(text).hexdigest(),
            kinds=kinds,
            groups=groups,
            views={
                key: self.template(node, "variable") for key, node in self.fields(root["views"], VIEWS, VIEWS).items()
            },
            ignored=tuple(self.ignored(node) for node in self.sequence(root["ignored"])),
            training_step=self.text(root["training_step"]),
            recognition={
                key: self.probe(node) for key, node in self.fields(root["recognition"], QUESTIONS, QUESTIONS).items()
            },
        )

    def kind(self, node: yaml.Node) -> tuple[Part, ...]:
        return tuple(self.part(target, part) for target, part in self.mapping(node).items())

    def part(self, target: str, node: yaml.Node) -> Part:
        fields = self.fields(node, ("from", "op", "shape"), required=("op",))
        op = self.text(fields["op"])
        if op not in OPS:
            raise self.error(fields["op"], f"operation {op!r} does not exist; known are {', '.join(OPS)}")
        if ("from" in fields) != ("shape" in fields):
            raise self.error(node, "'from' and 'shape' belong together; one of them is missing")
        source = fields.get("from")
        names = [source] if isinstance(source, yaml.ScalarNode) else self.sequence(source)
        sources = tuple(self.text(name) for name in names)
        shape = tuple(self.size(size) for size in self.sequence(fields.get("shape")))
        if not OPS[op].accepts([(1,) * len(shape)] * len(sources)):
            raise self.error(node, f"operation {op!r} does not take {len(sources)} sources with {len(shape)} axes")
        return Part(target, sources, op, shape)

    def group(self, node: yaml.Node, kinds: Mapping[str, tuple[Part, ...]]) -> Group:
        required = ("name", "tf", "torch", "rows")
        fields = self.fields(node, (*required, "for_each", "when"), required)
        scopes = self.text(fields["tf"]), self.text(fields["torch"])
        return Group(
            name=self.text(fields["name"]),
            for_each=tuple(self.text(axis) for axis in self.sequence(fields.get("for_each"))),
            when=self.text(fields["when"]) if "when" in fields else "",
            rows=tuple(self.row(row, scopes, kinds) for row in self.sequence(fields["rows"])),
            line=node.start_mark.line + 1,
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
        letters = sorted({size for part in kinds[kind] for size in part.shape if isinstance(size, str)})
        options = self.fields(cells[3], (*letters, "when", "folds"), required=letters)
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
        cells = list(self.sequence(node))
        if len(cells) != 2 or not self.text(cells[1]).strip():
            raise self.error(node, "an ignored variable is [name, reason]; the reason must be written")
        return self.template(cells[0], "variable"), self.text(cells[1])

    def probe(self, node: yaml.Node) -> Mapping[str, Size]:
        fields = self.mapping(node)
        if set(fields) not in map(set, PROBES):
            forms = "; ".join(" and ".join(form) for form in PROBES)
            raise self.error(node, f"this row has {' and '.join(fields) or 'nothing'}; expected one of: {forms}")
        for key, placeholder in (("which", "backbone"), ("count", "n")):
            if key in fields and f"{{{placeholder}}}" not in self.template(fields[key], placeholder):
                raise self.error(fields[key], f"{key!r} needs the placeholder {{{placeholder}}}")
        return {
            key: self.integer(value) if key in ("axis", "first") else self.text(value) for key, value in fields.items()
        }


def _join(separator: str, *parts: str) -> str:
    return separator.join(part for part in parts if part)
