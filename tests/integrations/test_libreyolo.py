"""LibreYOLO loads files of `--layout effdet`, strictly, and computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from effdet_torch import load_model
from support.commands import run
from verify.seeded import write_seeded_checkpoint

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]
ROUNDING = 1e-5  # of the largest output


def outputs(model: torch.nn.Module, images: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        class_logits, box_deltas = model.eval()(images)
    return [*class_logits, *box_deltas]


@pytest.mark.parametrize("classes", [90, 3])
def test_it_loads_the_file_and_computes_the_same(tmp_path: Path, classes: int) -> None:
    from libreyolo import LibreYOLO

    from effdet_torch.config import get_config

    write_seeded_checkpoint(get_config("d0", num_classes=classes), tmp_path / "d0")
    for out, options in {"ours.pth": [], "d0.pth": ["--layout", "effdet"]}.items():
        done = run("effdet-convert", "d0", out, *options, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    theirs, ours = LibreYOLO(str(tmp_path / "d0.pth"), device="cpu").model, load_model(tmp_path / "ours.pth")
    images = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    for one, other in zip(outputs(theirs, images), outputs(ours, images), strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < ROUNDING
    # Negative control: the folded kind lacks the biases.
    torch.save(torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"], tmp_path / "folded.pth")
    with pytest.raises(RuntimeError, match=r"Missing key.*fpn\.resample"):
        LibreYOLO(str(tmp_path / "folded.pth"), device="cpu", size="d0")
