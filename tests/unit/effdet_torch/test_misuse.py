"""Mistakes in calls from Python: an error of the project that says what to do, not one of a library below it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch import (
    EfficientDet,
    Predictor,
    create_model,
    get_config,
    list_models,
    load_backbone,
    load_model,
    make_anchors_yxyx,
    read_labels,
)
from effdet_torch.errors import EffdetError
from support.coco_samples import small_model, write_model

Call = Callable[[], Any]
MODEL = small_model()
IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("misuse") / "m.pth")


def predictor(**options: Any) -> Predictor:
    return Predictor(MODEL, device="cpu", **options)


CALLS: dict[str, tuple[Call, str]] = {
    "a misspelled keyword": (
        lambda: create_model("d0", num_class=20),
        r"unknown model setting 'num_class'; known settings: name, .*; did you mean 'num_classes'\?",
    ),
    "of get_config": (lambda: get_config("d0", imagesize=512), r"did you mean 'image_size'\?"),
    "a number as variant": (lambda: create_model(0), r"variant is of type int; expected .*list_models\(\)"),
    "no variant": (lambda: get_config(None), "variant is of type NoneType"),
    "an unknown variant": (lambda: get_config("d10"), r"unknown variant 'd10'; known variants: d0, .*; did you mean"),
    "classes as text": (lambda: create_model("d0", num_classes="20"), "num_classes is '20'; expected a positive int"),
    "a size as text": (
        lambda: create_model("d0", image_size="512"),
        r"image_size is '512'; expected \(height, width\)",
    ),
    "a list as the label map of a model": (
        lambda: create_model("d0", num_classes=2, label_map=["cat", "dog"]),
        r"{category id: name}, which is dict\(enumerate\(names, start=1\)\) of a list",
    ),
    "drop path": (lambda: create_model("d0", drop_path_rate=2), "drop_path_rate is 2; expected 0 or more, below 1"),
    "a name as config": (lambda: EfficientDet("d0"), "config is of type str; expected .* get_config returns"),
    "an image without a batch": (
        lambda: MODEL(torch.zeros(3, 64, 64)),
        r"images have the shape \(3, 64, 64\); expected \(B, 3, H, W\)$",
    ),
    "an HWC image": (lambda: MODEL(torch.zeros(64, 64, 3)), r"use images\.permute\(2, 0, 1\)\[None\]"),
    "NHWC": (lambda: MODEL(torch.zeros(1, 64, 64, 3)), r"use images\.permute\(0, 3, 1, 2\)"),
    "a number": (lambda: MODEL(torch.tensor(1.0)), r"images have the shape \(\); expected"),
    "an array": (lambda: MODEL(np.zeros((1, 3, 64, 64), np.float32)), "images is of type ndarray; expected a tensor"),
    "bytes": (lambda: MODEL(b"abc"), "images is of type bytes; expected a tensor .*Predictor takes arrays"),
    "pixels": (lambda: MODEL(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), "images hold torch.uint8; .*Predictor"),
    "anchors by name": (lambda: make_anchors_yxyx("d0"), "config is of type str; expected .*get_config"),
    "anchors of a dictionary": (lambda: make_anchors_yxyx({"name": "d0"}), "config is of type dict"),
    "bytes as file": (lambda: load_model(b"PK"), "path is of type bytes; expected the path of a converted file"),
    "no file": (lambda: load_model(None), "path is of type NoneType"),
    "backbone of a name": (lambda: load_backbone("d0", "b0.pth"), "model is of type str; .*create_model returns"),
    "names as names": (lambda: read_labels(["cat", "dog"]), "path is of type list; expected the path of a file"),
    "names as bytes": (lambda: read_labels(b"cat"), "path is of type bytes"),
    "a label map with a category too many": (
        lambda: predictor(label_map={500: "a"}, classes="a"),
        "label_map names category 500; expected 1 to 2",
    ),
    "a label map with the background": (
        lambda: predictor(label_map={0: "b"}),
        "label_map names category 0; expected 1",
    ),
    "a label map of channels": (lambda: predictor(label_map={-3: "b"}), "label_map names category -3; expected 1 to 2"),
    "a list as label map": (
        lambda: predictor(label_map=["cat", "dog"]),
        r"label_map is of type list; expected {category id: name}, which is dict\(enumerate\(names, start=1\)\)",
    ),
    "a label map with texts": (lambda: predictor(label_map={"1": "cat"}), "category '1' of label_map is of type str"),
    "a label map without texts": (lambda: predictor(label_map={1: 2}), "category 1 in label_map is of type int"),
    "a detector of nothing": (lambda: Predictor(None), "model is of type NoneType; expected a converted file, an"),
    "a detector of a state_dict": (lambda: Predictor(MODEL.state_dict()), "model is of type OrderedDict"),
    "a threshold as text": (lambda: predictor(score_threshold="0.5"), "score_threshold is of type str; .* 0 to 1"),
    "a threshold in percent": (lambda: predictor(score_threshold=50), "score_threshold is 50; expected 0 to 1"),
    "a text as size": (lambda: predictor(image_size="64"), r"image_size is .64.; expected \(height, width\)"),
    "a device as number": (lambda: Predictor(MODEL, device=1.5), "the device '1.5' cannot be used"),
    "a profile as number": (lambda: predictor(profile=1), "unknown postprocessing profile 1; expected one of"),
    "a batch as text": (lambda: predictor()([IMAGE], batch_size="8"), "batch_size is of type str"),
    "encoded images": (lambda: predictor()(b"\xff\xd8"), r"an image is of type bytes; .*Image\.open\(io\.BytesIO"),
    "no images": (lambda: predictor()(None), "an image is of type NoneType; expected a path, a Pillow image"),
    "normalised images": (
        lambda: predictor()(torch.zeros(3, 8, 8)),
        "an image has dtype torch.float32; expected uint8",
    ),
    "images without colour": (lambda: predictor()(IMAGE[:, :, 0]), r"an image has shape \(8, 8\); expected RGB"),
    "profiles": (lambda: predictor(profile=["hard"]), r"unknown postprocessing profile \['hard'\]; expected one of"),
    "a switch as text": (lambda: predictor(compiled="off"), "compiled is of type str; expected True or False"),
    "a switch as number": (lambda: predictor(fused=1), "fused is of type int; expected True or False"),
    "no batch": (lambda: next(predictor().stream([], 0)), "batch_size is 0; expected at least 1"),
    "a stream's batch as text": (lambda: next(predictor().stream([], "8")), "batch_size is of type str"),
    "fewer workers than none": (lambda: next(predictor().stream([], workers=-1)), "workers is -1; expected at least 0"),
    "a name that no file can have": (
        lambda: load_model("a\0b"),
        r"cannot read the model file a\\x00b: it is not a path",
    ),
    "a folder as files": (lambda: next(predictor().stream("photos")), "paths is of type str; expected a list of image"),
}


@pytest.mark.parametrize("mistake", CALLS)
def test_a_mistake_is_explained(mistake: str) -> None:
    call, words = CALLS[mistake]
    with pytest.raises(EffdetError, match=words) as caught:
        call()
    assert caught.value.exit_code in (1, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "d0.onnx",
            r"d0\.onnx is exported already: Predictor, .* take it as it is\. For anything else pass the converted",
        ),
        ("d0.bin", r"d0\.bin is not a model file: .* of OpenVINO's two files pass the \.xml"),
    ],
)
def test_an_export_is_not_a_converted_file(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\n\x12\x0e")
    with pytest.raises(EffdetError, match=said):
        load_model(tmp_path / name)


def test_arguments_of_load_model(file: Path) -> None:
    with pytest.raises(EffdetError, match=r"dtype is of type str; expected a torch.dtype such as torch.float16"):
        load_model(file, dtype="float16")  # type: ignore[arg-type]
    for dtype in (torch.int8, torch.complex64):
        with pytest.raises(EffdetError, match=r"dtype is torch.*; expected a floating-point type"):
            load_model(file, dtype=dtype)
    for device in ("gpu", 1.5, "cuda:99"):
        with pytest.raises(EffdetError, match=r"the device .* does not exist; expected cpu, cuda, cuda:1"):
            load_model(file, device=device)  # type: ignore[arg-type]


def test_a_file_of_another_number_of_classes(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(EffdetError, match="num_classes is of type str; expected a number of classes"):
        read_labels(tmp_path / "names.txt", "2")  # type: ignore[arg-type]


def test_right_calls(file: Path) -> None:
    """Negative control."""
    assert "d0" in list_models()
    assert create_model("lite0", num_classes=2, image_size=64).config == get_config(
        "lite0", num_classes=2, image_size=(64, 64)
    )
    assert len(MODEL(torch.zeros(2, 3, 64, 64))[0]) == len(MODEL.config.levels)
    assert make_anchors_yxyx(MODEL.config).shape[1] == 4
    assert load_model(str(file), device="cpu", dtype=torch.float64)(torch.zeros(1, 3, 64, 64).double())
    assert list(predictor(fused=True).stream([], 10**30)) == []
    tensor = torch.tensor(IMAGE)
    for images in (IMAGE, [IMAGE], IMAGE[None], tensor, tensor.permute(2, 0, 1), iter([IMAGE])):
        (found,) = predictor(label_map={np.int64(1): "cat"}, score_threshold=np.float32(0.5))(images)
        assert len(found) >= 0
