"""Whether the names of constants, where they survive, agree with the places that the graph gives them."""

from __future__ import annotations

from collections.abc import Mapping

from converter.errors import UnsupportedSourceError
from converter.plan.expand import Plan
from converter.readers.tflite.placement import Recipe
from converter.readers.tflite.walk.found import NetworkFound

KERNELS = ("conv", "depthwise")


def require_names(network: NetworkFound, plan: Plan, recipes: Mapping[str, Recipe]) -> str:
    """Compare the names of all kernels with the layers that they are placed at, and return a note.

    A constant's name is a list of the nodes that it was made of. A constant that several operations use may be called
    after any of them, so its name shows nothing.

    Raises:
        UnsupportedSourceError: A kernel is called after another layer.
    """
    scopes = {entry.layer.tf for entry in plan.entries}
    agreeing, total = 0, 0
    for entry in plan.entries:
        for variable in entry.sources:
            recipe = recipes[variable]
            if recipe.site is None or recipe.rule not in KERNELS:
                continue
            total += 1
            index = recipe.site.operation.inputs[1]
            name = network.graph.tensor(index).name
            named = _scopes_in(name, scopes)
            if entry.layer.tf in named:
                agreeing += 1
            elif named and network.graph.uses(index) == 1:
                raise UnsupportedSourceError(
                    f"the graph has the constant {name[:200]!r} at {entry.layer.tf}, but it is called after "
                    f"{sorted(named)[0]}; the file was changed, or its graph is not the official one"
                )
    if not agreeing:
        return "no name of a layer survived in the file: all of them were found by the graph alone"
    return f"all layers were found by the graph; the names of {agreeing} of {total} kernels agree"


def _scopes_in(name: str, scopes: set[str]) -> set[str]:
    """Return the scopes that a constant's name holds, as whole parts of paths."""
    found = set()
    for component in name.split(";"):
        parts = component.split("/")
        found |= {"/".join(parts[:end]) for end in range(1, len(parts) + 1)} & scopes
    return found
