"""docs/sources/effdet.md names every model of the package."""

from __future__ import annotations

from pathlib import Path

from effdet_torch.architecture.effdet_models import PACKAGE_MODELS, UNSUPPORTED_MODELS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sources" / "effdet.md").read_text(encoding="utf-8")


def test_the_page_names_every_model() -> None:
    for name in PACKAGE_MODELS:
        first, _, last = name.rpartition("_")
        assert f"`{name}`" in PAGE or f"`{first}_" in PAGE, name
        assert f"_{last}" in PAGE or last in ("d1", "d2", "q1"), name
    assert all(name in PAGE or name.startswith(("mixdet", "mobiledet", "csp")) for name in UNSUPPORTED_MODELS)
