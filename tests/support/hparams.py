"""A converter that misreads a hyperparameter, for tests of what notices it."""

from __future__ import annotations

import pytest

from converter.hparams import fields


def misread(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Let the converter take a value for the one of a hyperparameter, whatever is stated."""
    meanings = [m._replace(read=lambda _: value) if m.name == name else m for m in fields.MEANINGS]
    monkeypatch.setattr(fields, "MEANINGS", tuple(meanings))
