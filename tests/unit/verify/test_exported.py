"""An exported file that returns NaN still gets a report, which shows where it begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effdet_torch import export_model, load_model, save_model
from support.exports import export_sample
from verify.exported import verify_exported


def test_layers_show_where_nan_begins(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    save_model(export_sample(), tmp_path / "model.pth")
    model, file = load_model(tmp_path / "model.pth"), tmp_path / "model.tflite"
    export_model(model, file, nms="none", check=False)
    assert verify_exported(file, tmp_path / "model.pth").verdict == "PASS"  # negative control
    content = bytearray(file.read_bytes())
    kernel = model.get_parameter("box_net.predict.conv_pw.weight").detach().numpy()
    place = content.find(kernel.reshape(len(kernel), -1)[0].tobytes())
    content[place : place + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    found = verify_exported(file, tmp_path / "model.pth")
    assert (found.verdict, found.detection) == ("FAIL", None)
    assert {layer.torch for layer in found.layers if not layer.passed} == {"box_net.predict"}
