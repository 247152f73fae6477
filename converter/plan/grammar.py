"""Read a mapping table: YAML -> checked dataclasses; errors name file and line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources

import yaml

from converter.errors import MappingError
from converter.plan.ops import ARRANGED, ONE_CHANNEL, OPS, arranged
from converter.plan.table import (
    EMPTY,
    FILE,
    LOWEST,
    PROBES,
    VIEWS,
    WHEN,
    Absence,
    Group,
    Ignored,
    Part,
    Row,
    Table,
)
from converter.plan.yaml_nodes import NodeReader, Size, placeholders

REQUIRED = ("version", "kinds", "groups", "recognition")
INHERITED = ("views", "ignored", "training_step")  # optional in a table that includes another one
SECTIONS = (*REQUIRED, *INHERITED, "include", "like", "state_dict", "spellings")


@cache
def load_table(name: str) -> Table:
    """Read `mappings/<name>.yaml`.

    Raises:
        MappingError: The table breaks its grammar; the text names file, line and what is expected.
    """
    return parse_table((resources.files("mappings") / f"{name}.yaml").read_bytes(), name)


def parse_table(text: bytes, name: str) -> Table:
    """Parse a mapping table, see `load_table`."""
    return _Parser(FILE.format(name)).table(text, name)


class _Parser(NodeReader):
    """The grammar: one method for each construct."""

    def table(self, text: bytes, name: str) -> Table:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            node = yaml.compose(text, Loader=loader)
        except yaml.YAMLError as error:
            raise MappingError(f"{self.file} is not YAML: {error}") from error
        base_section = next((name for name in ("include", "like") if name in self.mapping(node)), None)
        root = self.fields(node, SECTIONS, required=REQUIRED if base_section else (*REQUIRED, *INHERITED))
        if {"include", "like"} <= root.keys():
            raise self.error(root["like"], "a table is like another one, or includes one")
        base = self.base(root, base_section)
        kinds = {**base.kinds, **self.kinds(root["kinds"], base.kinds)}
        groups = (*base.groups, *(self.group(group, kinds) for group in self.sequence(root["groups"])))
        self.refuse_unused(root["kinds"], groups)
        return Table(
            name=name,
            version=self.integer(root["version"]),
            sha256=hashlib.sha256(text + base.sha256.encode()).hexdigest(),
            kinds=kinds,
            groups=groups,
            views=self.views(root["views"]) if "views" in root else base.views,
            ignored=(*base.ignored, *map(self.ignored, self.sequence(root.get("ignored")))),
            training_step=self.text(root["training_step"]) if "training_step" in root else base.training_step,
            recognition={**base.recognition, **self.probes(root["recognition"])},
            included_questions=frozenset(base.recognition),
            included_module=base.included_module,
            state_dict=self.probes(root["state_dict"]) if "state_dict" in root else {},
            spellings=tuple(map(self.spelling, self.sequence(root.get("spellings")))),
        )

    def base(self, root: Mapping[str, yaml.Node], section: str | None) -> Table:
        """Return the table that this one includes, or of whose network it has the names of another code."""
        if section is None:
            return EMPTY
        if section == "include":
            return self.included(root[section])
        table = self.other(root[section], self.text(root[section]))
        return replace(table, groups=(), recognition={}, included_questions=frozenset(), state_dict={})

    def other(self, node: yaml.Node, name: str) -> Table:
        exists = name.isidentifier() and (resources.files("mappings") / f"{name}.yaml").is_file()
        if self.file == FILE.format(name) or not exists:
            raise self.error(node, f"table {name!r} cannot be included: it is this one, or does not exist")
        return load_table(name)

    def included(self, node: yaml.Node) -> Table:
        """Read another table, and put its rows under a PyTorch module."""
        name, module = map(self.text, self.cells(node, "[table, PyTorch module]"))
        table = self.other(node, name)
        groups = tuple(
            replace(group, rows=tuple(replace(row, torch=_join(".", module, row.torch)) for row in group.rows))
            for group in table.groups
        )
        return replace(table, groups=groups, included_module=module)

    def kinds(self, node: yaml.Node, known: Container[str]) -> dict[str, tuple[Part, ...]]:
        kinds = {}
        for kind, parts in self.mapping(node).items():
            if kind in known:
                raise self.error(parts, f"kind {kind!r} is already defined in the included table")
            kinds[kind] = tuple(self.part(target, part) for target, part in self.mapping(parts).items())
        return kinds

    def refuse_unused(self, kinds: yaml.Node, groups: tuple[Group, ...]) -> None:
        used = {row.kind for group in groups for row in group.rows}
        for kind, node in self.mapping(kinds).items():
            if kind not in used:
                raise self.error(node, f"no row uses the kind {kind!r}; remove it")

    def views(self, node: yaml.Node) -> dict[str, str]:
        return {view: self.template(value, "variable") for view, value in self.fields(node, VIEWS, VIEWS).items()}

    def probes(self, node: yaml.Node) -> dict[str, Mapping[str, Size]]:
        """Read the rules of recognition; the table's family knows which questions they must answer."""
        rules: dict[str, Mapping[str, Size]] = {}
        for question, place in self.mapping(node).items():
            rules[question] = self.probe(place)
            if (condition := rules[question].get(WHEN)) not in (None, *rules) or condition == question:
                raise self.error(place, f"the condition {condition!r} is not a question above this one")
        chosen = {name for rule in rules.values() for name in placeholders(str(rule.get("which", "")))}
        for question, rule in rules.items():
            if "count" in rule and (unknown := placeholders(str(rule["count"])) - chosen - {"n"}):
                where = self.mapping(node)[question]
                allowed = ", ".join(f"{{{name}}}" for name in ("n", *sorted(chosen)))
                raise self.error(where, f"unknown placeholder {{{min(unknown)}}} in 'count'; expected {allowed}")
        return rules

    def part(self, target: str, node: yaml.Node) -> Part:
        fields = self.fields(node, ("from", "op", "shape", "count"), required=("op",))
        op = self.text(fields["op"])
        if op not in {*OPS, *ARRANGED}:
            raise self.error(fields["op"], f"unknown operation {op!r}; known are {', '.join((*OPS, *ARRANGED))}")
        if ("from" in fields) != ("shape" in fields):
            raise self.error(node, "'from' and 'shape' belong together; one of them is missing")
        source = fields.get("from")
        names = [source] if isinstance(source, yaml.ScalarNode) else self.sequence(source)
        sources = tuple(self.text(name) for name in names)
        shape = tuple(self.size(size) for size in self.sequence(fields.get("shape")))
        count = self.text(fields["count"]) if "count" in fields else ""
        if count and len(sources) != 1:
            raise self.error(fields["count"], "'count' numbers the sources of one name")
        number = len(sources) + bool(count)  # a count stands for several sources
        operation = arranged(op, ONE_CHANNEL) if op in ARRANGED else OPS[op]
        if not operation.accepts([(1,) * len(shape)] * number):
            raise self.error(node, f"operation {op!r} cannot take {number} sources with {len(shape)} axes")
        return Part(target, sources, op, shape, count)

    def group(self, node: yaml.Node, kinds: Mapping[str, tuple[Part, ...]]) -> Group:
        required = ("name", "tf", "torch", "rows")
        fields = self.fields(node, (*required, "for_each", "when", "absent"), required)
        scopes = self.text(fields["tf"]), self.text(fields["torch"])
        absence = self.absence(fields["absent"]) if "absent" in fields else None
        rows = (self.row(row, scopes, kinds) for row in self.sequence(fields["rows"]))
        return Group(
            name=self.text(fields["name"]),
            for_each=tuple(self.text(axis) for axis in self.sequence(fields.get("for_each"))),
            when=self.text(fields["when"]) if "when" in fields else "",
            rows=tuple(replace(row, absence=absence) for row in rows),
            where=self.where(node),
        )

    def absence(self, node: yaml.Node) -> Absence:
        part, initial = self.cells(node, "[part, initial values]")
        return Absence(self.text(part), {suffix: self.text(value) for suffix, value in self.mapping(initial).items()})

    def row(self, node: yaml.Node, scopes: tuple[str, str], kinds: Mapping[str, tuple[Part, ...]]) -> Row:
        *names, given = self.cells(node, "[TensorFlow scope, PyTorch module, kind, sizes]")
        tf, torch, kind = map(self.text, names)
        if kind not in kinds:
            raise self.error(node, f"unknown kind {kind!r}; known are {', '.join(kinds)}")
        sizes_of = [(*part.shape, part.count) for part in kinds[kind]]
        letters = sorted({size for sizes in sizes_of for size in sizes if isinstance(size, str) and size})
        needed = ["channels"] if any(part.op in ARRANGED for part in kinds[kind]) else []
        options = self.fields(given, (*letters, *needed, "when", "folds"), required=(*letters, *needed))
        if "folds" in options and not any(part.op == "fold_bias" for part in kinds[kind]):
            raise self.error(options["folds"], f"kind {kind!r} has no fold_bias, so it cannot fold a bias")
        return Row(
            tf=_join("/", scopes[0], tf),
            torch=_join(".", scopes[1], torch),
            kind=kind,
            sizes={letter: self.size(options[letter]) for letter in letters},
            when=self.text(options["when"]) if "when" in options else "",
            folds=_join("/", scopes[0], self.text(options["folds"])) if "folds" in options else "",
            channels=self.text(options["channels"]) if "channels" in options else "",
            where=self.where(node),
        )

    def ignored(self, node: yaml.Node) -> Ignored:
        form = "[name, reason, axis]" if len(self.sequence(node)) == 3 else "[name, reason]"
        cells = Ignored(*map(self.text, self.cells(node, form)))
        if not cells.reason.strip():
            raise self.error(node, f"the reason to ignore {cells.name!r} is empty")
        return cells

    def spelling(self, node: yaml.Node) -> tuple[str, str]:
        pattern, key = map(self.text, self.cells(node, "[regular expression, key]"))
        try:
            re.sub(pattern, key, "")
        except (re.error, IndexError) as error:
            raise self.error(node, f"{pattern!r} is not a regular expression that gives {key!r}: {error}") from error
        return pattern, key

    def probe(self, node: yaml.Node) -> Mapping[str, Size]:
        fields = self.mapping(node)
        if set(fields) - {WHEN} not in map(set, PROBES):
            forms = "; ".join(" and ".join(form) for form in PROBES)
            raise self.error(node, f"this rule has {' and '.join(fields) or 'nothing'}; expected one of: {forms}")
        if "count" in fields and "{n}" not in self.text(fields["count"]):
            raise self.error(fields["count"], "'count' needs the placeholder {n}")
        if "which" in fields and len(placeholders(self.text(fields["which"]))) != 1:
            raise self.error(fields["which"], "'which' needs one placeholder")
        numbers = [key for key in ("axis", "axes", "first") if key in fields and fields[key].value != LOWEST]
        return {key: self.integer(value) if key in numbers else self.text(value) for key, value in fields.items()}


def _join(separator: str, *parts: str) -> str:
    return separator.join(part for part in parts if part)
