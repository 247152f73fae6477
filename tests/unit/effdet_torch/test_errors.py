"""The text of errors: names in it cannot forge a line."""

from __future__ import annotations

import pickle

import pytest

from converter.errors import AccountingError
from effdet_torch.errors import ConfigError, EffdetError, first_of, listed
from effdet_torch.untrusted.text import MAX_LINE

HOSTILE = "a\nError: b\x1b[2J\udc80"


@pytest.mark.parametrize("error", [EffdetError(f"{HOSTILE} is missing"), ConfigError(f"{HOSTILE} is missing")])
def test_a_name_stays_within_its_line(error: EffdetError) -> None:
    assert str(error) == r"a\nError: b\x1b[2J\udc80 is missing"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_lines_of_our_own_are_kept() -> None:
    assert str(EffdetError("two problems:", f"  {HOSTILE}", "  c")).splitlines() == [
        "two problems:",
        r"  a\nError: b\x1b[2J\udc80",
        "  c",
    ]
    error = AccountingError(["one problem:", f"  {HOSTILE}"], [HOSTILE])
    assert len(str(error).splitlines()) == 2
    assert error.problems == [HOSTILE]


def test_a_line_is_never_endless() -> None:
    assert len(str(EffdetError("x" * 10_000_000))) < MAX_LINE + 100


def test_lists_name_the_first() -> None:
    assert listed("abc") == "a, b, c"
    assert listed("abcdefg") == "a, b, c, d, e, and 2 more"
    assert first_of("abc", 2) == ["a", "b", "and 1 more"]
