"""The user's --hparams on conversion are used for the verification as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from support.sources import small_config
from verify.seeded import write_seeded_checkpoint
from verify.verification import Settings, verify_model

pytest.importorskip("tensorflow")


@pytest.mark.parametrize(
    ("changes", "hparams"),
    [
        ({"num_scales": 2, "aspect_ratios": (1.0, 2.0, 0.5, 3.0, 0.25)}, "num_scales=2,aspect_ratios=1*2*0.5*3*0.25"),
        ({"fusion": "attn"}, "fpn_weight_method=attn"),
        ({"activation": "relu6"}, "act_type=relu6"),
    ],
)
def test_options_of_the_conversion_are_used(changes: dict[str, Any], hparams: str, tmp_path: Path) -> None:
    config = small_config(**changes)
    with open_checkpoint(write_seeded_checkpoint(config, tmp_path)) as source:
        convert_checkpoint(prepare(source, hparams=hparams), tmp_path / "model.pth")
        settings = Settings(image_size=(64, 64), dtypes=("float64",), modes=("isolated",))
        assert verify_model(tmp_path / "model.pth", source, settings).passed


def test_a_config_file_that_was_removed(tmp_path: Path) -> None:
    prefix = write_seeded_checkpoint(small_config(fusion="attn"), tmp_path)
    (tmp_path / "config.yaml").write_text("fpn_weight_method: attn\n")
    with open_checkpoint(prefix) as source:
        convert_checkpoint(prepare(source), tmp_path / "model.pth")
    settings = Settings(image_size=(64, 64), dtypes=("float32",))
    (tmp_path / "config.yaml").unlink()
    with open_checkpoint(prefix) as source:  # the file knows what it said
        assert verify_model(tmp_path / "model.pth", source, settings).passed
    (tmp_path / "config.yaml").write_text("fpn_weight_method: fastattn\n")
    with open_checkpoint(prefix) as source:  # another one contradicts it
        result = verify_model(tmp_path / "model.pth", source, settings)
    assert "combine" in {layer.kind for layer in result.failures}
