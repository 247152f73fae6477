from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset8

from effdet_torch.config import get_config
from effdet_torch.engines.document import Interface, make_document
from effdet_torch.engines.runtimes.openvino import FULL_PRECISION, WEIGHTS_CHECKSUM, OpenVinoEngine, weights_checksum
from effdet_torch.errors import EffdetError, ModelFileError
from effdet_torch.file_format import METADATA_KEY

DOCUMENT = make_document(get_config("d0", image_size=(32, 32)), Interface(image_size=(32, 32)), {}, {}).to_json()
NAMES = [f"{head}_{level}" for head in ("class", "box") for level in range(3, 8)]


def write(path: Path, factor: float = 2.0, document: str | None = DOCUMENT) -> Path:
    """Write a graph that multiplies its input."""
    images = opset8.parameter([1, 3, 32, 32], np.float32, name="images")
    images.output(0).set_names({"images"})
    results = []
    for name in NAMES:
        product = opset8.multiply(images, opset8.constant(np.full((3, 32, 32), factor, np.float32)))
        product.output(0).set_names({name})
        results.append(product)
    model = openvino.Model(results, [images], "g")
    if document is not None:
        model.set_rt_info(document, [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)
    model.set_rt_info(weights_checksum(path.with_suffix(".bin").read_bytes()), [WEIGHTS_CHECKSUM])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def test_a_file_of_ours_runs_in_float32(tmp_path: Path) -> None:
    engine = OpenVinoEngine(write(tmp_path / "a.xml", factor=1.001))
    pixels = np.float32(np.random.default_rng(0).standard_normal((1, 3, 32, 32)))
    assert all(np.array_equal(output, pixels * np.float32(1.001)) for output in engine.run(pixels))
    assert FULL_PRECISION == {"INFERENCE_PRECISION_HINT": "f32"}


def test_threads_may_share_an_engine(tmp_path: Path) -> None:
    engine = OpenVinoEngine(write(tmp_path / "a.xml"))
    pixels = [np.full((1, 3, 32, 32), number, np.float32) for number in range(400)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(engine.run, pixels))
    assert all(np.array_equal(outputs[0], 2 * given) for outputs, given in zip(found, pixels, strict=True))


def test_another_tool_s_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="was not written by effdet-export"):
        OpenVinoEngine(write(tmp_path / "a.xml", document=None))


def test_weights_of_another_file_are_refused(tmp_path: Path) -> None:
    """Their shapes are the same, so OpenVINO takes them."""
    path, other = write(tmp_path / "a.xml"), write(tmp_path / "b.xml", factor=3.0)
    path.with_suffix(".bin").write_bytes(other.with_suffix(".bin").read_bytes())
    with pytest.raises(ModelFileError, match=r"a\.bin is damaged, or does not belong to \S*a\.xml\. Copy both files"):
        OpenVinoEngine(path)
    path.with_suffix(".bin").write_bytes(other.with_suffix(".bin").read_bytes()[:8])  # too short: OpenVINO refuses it
    with pytest.raises(ModelFileError, match=r"a\.bin is damaged, or does not belong to \S*a\.xml\. Copy both files"):
        OpenVinoEngine(path)


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml")
    for content in ("", "<net>", path.read_text()[:-300]):
        path.write_text(content)
        with pytest.raises(ModelFileError) as caught:
            OpenVinoEngine(path)
        assert "\n" not in str(caught.value)
    write(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelFileError, match=r"a\.bin is missing, .* weights of \S*a\.xml\. Copy both files"):
        OpenVinoEngine(path)
    path.unlink()
    with pytest.raises(ModelFileError, match=r"a\.xml: No such file or directory; check its name and folder\."):
        OpenVinoEngine(path)


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.xml")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EffdetError, match=r"needs openvino, .* pip install '\.\[openvino\]'"):
        OpenVinoEngine(path)
