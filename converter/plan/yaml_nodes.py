"""Plain values out of YAML nodes, strictly: every mistake is an error with file and line.

Nodes instead of loaded objects, because only they know their line and their duplicate keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

from converter.errors import MappingError

Size = int | str  # a number, or the name of a quantity


class NodeReader:
    """Reads the nodes of one file; all methods raise `MappingError` where a node is not what they read.

    Attributes:
        file: its name in error texts.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def mapping(self, node: yaml.Node | None) -> dict[str, yaml.Node]:
        """Return the nodes of a mapping by their keys; no key may stand twice."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "expected a mapping")
        result: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = self.text(key_node)
            if key in result:
                raise self.error(key_node, f"key {key!r} stands twice")
            result[key] = value
        return result

    def fields(self, node: yaml.Node | None, known: Sequence[str], required: Sequence[str]) -> dict[str, yaml.Node]:
        """Return a mapping whose keys are known beforehand."""
        found = self.mapping(node)
        if unknown := sorted(set(found) - set(known)):
            raise self.error(found[unknown[0]], f"key {unknown[0]!r} is unknown here; known are {', '.join(known)}")
        if absent := [key for key in required if key not in found]:
            raise self.error(node, f"key {absent[0]!r} is missing")
        return found

    def sequence(self, node: yaml.Node | None) -> Iterator[yaml.Node]:
        """Return the nodes of a list; one that was left out is empty."""
        if node is None:
            return iter(())
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "expected a list")
        return iter(node.value)

    def text(self, node: yaml.Node) -> str:
        """Return a string; what YAML reads as something else (`no` as False, `1` as a number) is not one."""
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self.error(node, f"expected a name, found {getattr(node, 'value', None)!r}; put it into quotes")
        return str(node.value)

    def template(self, node: yaml.Node, *placeholders: str) -> str:
        """Return a string in which nothing but known placeholders stands in braces."""
        text = rest = self.text(node)
        for placeholder in placeholders:
            rest = rest.replace(f"{{{placeholder}}}", "")
        if "{" in rest or "}" in rest:
            known = " and ".join(f"{{{placeholder}}}" for placeholder in placeholders)
            raise self.error(node, f"{text!r}: the only placeholder here is {known}")
        return text

    def integer(self, node: yaml.Node) -> int:
        """Return a number without sign, in decimal digits."""
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
