"""Read `mappings/tflite.yaml`: how the official variables follow from folded layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from converter.plan.yaml_nodes import NodeReader

FILE = "mappings/tflite.yaml"
RULES = ("conv", "depthwise", "bias", "gain", "weight")
HEADS = ("class", "box")
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@dataclass(frozen=True)
class Dialect:
    """The table.

    Attributes:
        kinds: {kind of layer: {variable: a rule, or the number that all its values are}}.
        heads: {head: the scope of its layers}.
    """

    kinds: Mapping[str, Mapping[str, str | float]]
    heads: Mapping[str, str]


@cache
def load_dialect() -> Dialect:
    """Return the table of TensorFlow Lite.

    Raises:
        MappingError: It breaks its grammar.
    """
    text = (resources.files("mappings") / "tflite.yaml").read_text("utf-8")
    return read_dialect(text)


def read_dialect(text: str) -> Dialect:
    """Return the table in a text.

    Raises:
        MappingError: It breaks its grammar; the text has file and line.
    """
    reader = NodeReader(FILE)
    root = reader.fields(yaml.compose(text, yaml.SafeLoader), *[("version", "kinds", "heads")] * 2)
    reader.integer(root["version"])
    kinds = {
        kind: {name: _rule(reader, rule) for name, rule in reader.mapping(rules).items()}
        for kind, rules in reader.mapping(root["kinds"]).items()
    }
    heads = {head: reader.text(scope) for head, scope in reader.fields(root["heads"], HEADS, HEADS).items()}
    return Dialect(kinds, heads)


def _rule(reader: NodeReader, node: yaml.Node) -> str | float:
    if node.tag in NUMBERS:
        return float(node.value)
    rule = reader.text(node)
    if rule not in RULES:
        raise reader.error(node, f"unknown rule {rule!r}; expected a number or one of {', '.join(RULES)}")
    return rule
