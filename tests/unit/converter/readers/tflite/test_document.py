"""A `.tflite` that effdet-export wrote: what its document says counts, not what the graph shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.conversion import convert_checkpoint, prepare
from converter.errors import ConversionError, CorruptFileError
from converter.locate import open_checkpoint
from effdet_torch import load_model
from effdet_torch.config import EfficientDetConfig
from effdet_torch.file_format import METADATA_KEY
from support.sources import small_config
from support.tflite_exports import write_export
from support.tflite_files import pack, unpack

CONFIG = small_config(
    image_size=64, num_classes=3, label_map=((1, "cat"),), nms_configs=(("iou_thresh", 0.4),), mean_rgb=(1.0, 2.0, 3.0)
)


def converted(path: Path, folder: Path) -> EfficientDetConfig:
    with open_checkpoint(path) as source:
        convert_checkpoint(prepare(source), folder / f"{path.stem}.pth")
    return load_model(folder / f"{path.stem}.pth").config


def changed(path: Path, old: bytes, new: bytes) -> Path:
    """Change a text of the same length in the document."""
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def test_the_document_says_what_the_graph_does_not_show(tmp_path: Path) -> None:
    path = write_export(tmp_path / "ours.tflite", CONFIG, detects=True)
    assert converted(path, tmp_path) == CONFIG
    model = unpack(path.read_bytes())
    model.metadata = [entry for entry in model.metadata if entry.name != METADATA_KEY.encode()]
    (tmp_path / "bare.tflite").write_bytes(pack(model))
    bare = converted(tmp_path / "bare.tflite", tmp_path)  # negative control
    assert (bare.label_map, bare.mean_rgb) != (CONFIG.label_map, CONFIG.mean_rgb)
    assert dict(bare.nms_configs)["iou_thresh"] == 0.5


def test_a_document_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = write_export(tmp_path / "a.tflite", CONFIG)
    with pytest.raises(CorruptFileError, match="the entry 'effdet_convert' is not JSON"):
        open_checkpoint(changed(path, b'{"format_version"', b'#"format_version"'))


def test_a_document_of_another_network_is_refused(tmp_path: Path) -> None:
    """Its graph has three classes."""
    path = write_export(tmp_path / "a.tflite", CONFIG)
    changed(path, b'"num_classes": 3', b'"num_classes": 4')
    with (
        open_checkpoint(path) as source,
        pytest.raises(ConversionError, match="its metadata sets num_classes to 4, but the checkpoint's shapes show 3"),
    ):
        prepare(source)
