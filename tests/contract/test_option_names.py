"""An option means the same in every command that has it."""

from collections import defaultdict
from collections.abc import Iterable

import click
import pytest

from cli import VERBS

# Option -> the command in which it takes something else, and why.
EXCEPTIONS = {
    ("--json", "inspect"): "prints to stdout, because inspect has nothing else to print there",
    ("--batch", "export"): "a file can take any batch: N|dynamic",
    ("--batch", "train"): "training can choose one: N|auto",
    ("--image-size", "export"): "a file can take any size: SIDE|WxH|dynamic",
}


def takes(option: click.Option) -> str:
    """Return what is written after an option, without the difference between names of files."""
    if option.is_flag:
        return "nothing"
    return (option.metavar or option.type.name).removesuffix(".json").replace("range", "").strip()


def differing(verbs: Iterable[click.Command]) -> set[tuple[str, str]]:
    """Return (option, command) of those that do not take what the option takes in the first command that has it."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for verb in verbs:
        for option in verb.params:
            for name in (*option.opts, *option.secondary_opts):
                is_long = name.startswith("--")  # -o is where the result goes, whatever that is
                if is_long and isinstance(option, click.Option) and (name, verb.name) not in EXCEPTIONS:
                    found[name][str(verb.name)] = takes(option)
    rows = (
        (name, verb, kind, next(iter(kinds.values()))) for name, kinds in found.items() for verb, kind in kinds.items()
    )
    return {(name, verb) for name, verb, kind, first in rows if kind != first}


def test_every_option_takes_the_same_everywhere() -> None:
    assert differing(VERBS) == set()


@pytest.mark.parametrize(("name", "verb"), EXCEPTIONS)
def test_every_exception_is_one(name: str, verb: str) -> None:
    command = next(command for command in VERBS if command.name == verb)
    assert any(name in option.opts for option in command.params)


def test_a_difference_is_found() -> None:
    """Negative control."""
    other = click.Command("other", params=[click.Option(["--batch"], metavar="NAME"), click.Option(["--score"])])
    assert differing((*VERBS, other)) == {("--batch", "other"), ("--score", "other")}
