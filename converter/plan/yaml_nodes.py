"""Read plain values from YAML nodes, strictly: every mistake is an error with file and line.

Only nodes, not loaded objects, know their line and their duplicate keys.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import yaml

from converter.errors import MappingError

Size = int | str  # a number, or the name of a quantity


class NodeReader:
    """Reads the nodes of one file, named in errors; all methods raise `MappingError` for nodes of another kind."""

    def __init__(self, file: str) -> None:
        self.file = file

    def mapping(self, node: yaml.Node | None) -> dict[str, yaml.Node]:
        """Return the nodes of a mapping by their keys; duplicate keys are refused."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "expected a mapping")
        result: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = self.text(key_node)
            if key in result:
                raise self.error(key_node, f"duplicate key {key!r}")
            result[key] = value
        return result

    def fields(self, node: yaml.Node | None, known: Sequence[str], required: Sequence[str]) -> dict[str, yaml.Node]:
        """Return a mapping with known and required keys."""
        found = self.mapping(node)
        if unknown := sorted(set(found) - set(known)):
            raise self.error(found[unknown[0]], f"unknown key {unknown[0]!r}; known are {', '.join(known)}")
        if absent := [key for key in required if key not in found]:
            raise self.error(node, f"key {absent[0]!r} is missing")
        return found

    def sequence(self, node: yaml.Node | None) -> list[yaml.Node]:
        """Return the nodes of a list; one that is absent is empty."""
        if node is not None and not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "expected a list")
        return [] if node is None else list(node.value)

    def cells(self, node: yaml.Node, form: str) -> list[yaml.Node]:
        """Return the nodes of a list with as many cells as its form, for example "[name, reason]"."""
        cells = self.sequence(node)
        if len(cells) != form.count(",") + 1:
            raise self.error(node, f"expected {form}; found {len(cells)} cells")
        return cells

    def text(self, node: yaml.Node) -> str:
        """Return a string; values that YAML reads as another type (`no` as False, `1` as a number) are refused."""
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self.error(node, f"expected a name, found {getattr(node, 'value', None)!r}; put it in quotes")
        return str(node.value)

    def template(self, node: yaml.Node, placeholder: str) -> str:
        """Return a string with no other placeholder than the given one."""
        text = self.text(node)
        if set("{}") & set(text.replace(f"{{{placeholder}}}", "")):
            raise self.error(node, f"{text!r}: the only placeholder allowed here is {{{placeholder}}}")
        return text

    def integer(self, node: yaml.Node) -> int:
        """Return an unsigned integer in decimal digits."""
        if node.tag != "tag:yaml.org,2002:int" or not node.value.isdecimal():
            raise self.error(node, f"expected an integer, found {node.value!r}")
        return int(node.value)

    def size(self, node: yaml.Node) -> Size:
        """Return a number or the name of a quantity."""
        return self.integer(node) if node.tag == "tag:yaml.org,2002:int" else self.text(node)

    def error(self, node: yaml.Node | None, text: str) -> MappingError:
        """Return the error of a node, with file and line."""
        return MappingError(f"{self.where(node)}: {text}")

    def where(self, node: yaml.Node | None) -> str:
        """Return file and line of a node."""
        return self.file if node is None else f"{self.file}, line {node.start_mark.line + 1}"


def placeholders(template: str) -> set[str]:
    """Return the names in braces of a template."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}
