"""PyTorch files without a complete EfficientDet: one clear error that names the file, what is wrong, what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx

from converter.conversion import convert_checkpoint, prepare
from converter.errors import AccountingError, CorruptFileError, SourceError, UnsupportedSourceError
from converter.identify.families import BACKBONE
from converter.locate import open_checkpoint
from converter.readers.pytorch.state_dict import StateDict
from converter.source import VariableSource
from effdet_torch.errors import EffdetError
from support.sources import MemorySource, plan_of, seeded, small_config

State = dict[str, Any]
LAST = "class_net.predict.conv_pw.bias"
KERNEL = "backbone.conv_stem.weight"
STEM = "efficientnet-b0/stem/conv2d/kernel"


def saved(path: Path, content: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are deprecated
        torch.save(content, path)
    return path


def opened(tmp_path: Path, content: Any) -> VariableSource:
    return open_checkpoint(saved(tmp_path / "a.pth", content))


def whole() -> State:
    """The tensors of a small model, all of which repeat one value."""
    return {key: torch.zeros(()).expand(entry.target_shape) for key, entry in plan_of(small_config()).targets.items()}


@pytest.fixture
def state() -> State:
    return whole()


def test_a_complete_state_dict_is_accepted(tmp_path: Path, state: State) -> None:
    """The control of all tests below."""
    with opened(tmp_path, state) as source:
        assert source.variables.keys() == plan_of(small_config()).variables.keys()


def test_missing_unexpected_and_mismatched_tensors_are_listed(tmp_path: Path, state: State) -> None:
    gone, narrow = "fpn.cell.0.fnode.2.combine.edge_weights", "box_net.conv_rep.0.conv_dw.weight"
    del state[gone]
    state[narrow] = torch.zeros(8, 1, 5, 5)
    state["class_net.extra.weight"] = torch.zeros(3)
    with pytest.raises(AccountingError, match=r"a\.pth is not a complete state_dict: 1 missing, 1 unexp") as caught:
        opened(tmp_path, state)
    assert caught.value.problems == [
        f"missing: {gone}",
        "unexpected: class_net.extra.weight",
        f"mismatched: {narrow} has shape (8, 1, 5, 5); expected (8, 1, 3, 3)",
    ]


@pytest.mark.parametrize(
    "key", [KERNEL, "box_net.bn_rep.0.2.bn.weight", "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.weight", LAST]
)
def test_any_tensor_may_be_the_missing_one(tmp_path: Path, state: State, key: str) -> None:
    del state[key]
    with pytest.raises((AccountingError, UnsupportedSourceError), match="backbone" if key == KERNEL else key):
        opened(tmp_path, state)


# Other networks.


def of_effdet(name: str) -> State:
    effdet = pytest.importorskip("effdet")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = effdet.create_model(name, pretrained=False, pretrained_backbone=False)
    return {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}


def with_tensors(**shapes: int) -> State:
    return whole() | {key: torch.zeros(size) for key, size in shapes.items()}


RESNET = dict.fromkeys(("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.bias"), torch.zeros(3))
INCOMPLETE = r"is not a complete state_dict: \d+ missing, \d+ unexpected"
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "a classifier": (lambda: RESNET, f"of an EfficientDet .* no key ends in {LAST}.*; it begins with 'conv1.weight'"),
    "a backbone": (
        lambda: {key: tensor for key, tensor in whole().items() if key.startswith("backbone.")},
        "no key ends in .*; it begins with 'backbone.conv_stem.weight'",
    ),
    "nothing": (dict, "it holds no tensors.* torch.save"),
    "a list": (lambda: [torch.zeros(3)], "it holds no tensors"),
    "a tensor": (lambda: torch.zeros(3), "it holds no tensors"),
    "numbers as keys": (lambda: {1: torch.zeros(3)}, "it holds no tensors"),
    "a pickled model": (
        lambda: torch.nn.Linear(2, 2),
        r"a pickled model \(torch\.nn\.modules\.linear\.Linear\); it begins with 'weight'\. .*model\.state_dict\(\)",
    ),
    "a model in a checkpoint": (
        lambda: {"model": torch.nn.Sequential(torch.nn.ReLU())},
        r"a pickled model \(torch\.nn\.modules\.container\.Sequential\) without tensors\. .*model\.state_dict\(\)",
    ),
    "a model that only code can rebuild": (
        lambda: {"model": torch.fx.symbolic_trace(torch.nn.Linear(2, 2)), "epoch": 3},
        r"it holds no tensors, but what only PyTorch can rebuild, by running code \(torch\.fx\.graph_module\.reduce",
    ),
    "on a ResNet": (lambda: of_effdet("resdet50"), "backbone fit no EfficientNet"),
    "on a MobileNet": (lambda: of_effdet("mobiledetv3_large"), "backbone fit no EfficientNet"),
    "on a MixNet": (lambda: of_effdet("mixdet_m"), r"backbone fit no EfficientNet.*such as resdet50, .*, mixdet_m\)"),
    "on inner features": (lambda: of_effdet("efficientdet_w0"), INCOMPLETE),
    "another BiFPN": (lambda: of_effdet("cspresdext50pan"), "backbone fit no EfficientNet"),
    "zylo117's": (
        lambda: {"backbone_net.model._conv_stem.conv.weight": torch.ones(1), "classifier.header.weight": torch.ones(1)},
        r"no key ends in .*It looks like the EfficientDet of zylo117 .*, which is not supported\.",
    ),
    "MMDetection's": (
        lambda: {"meta": {"epoch": 3}, "state_dict": {"neck.bifpn.0.conv6_up.bn.weight": torch.ones(1)}},
        "It looks like the EfficientDet of MMDetection, which is not supported",
    ),
    "some of the biases": (lambda: with_tensors(**{"class_net.conv_rep.0.conv_pw.bias": 8}), INCOMPLETE),
    "a custom head": (
        lambda: with_tensors(**{"box_net.predict.conv_pw.bias": 35}),
        "a custom head: the box prediction has 35 channels",
    ),
    "too many levels": (
        lambda: with_tensors(**{f"class_net.bn_rep.0.{level}.bn.weight": 8 for level in range(3, 30)}),
        "max_level is 32; expected 5 to 12",
    ),
    "two networks": (
        lambda: {f"{name}.{key}": tensor for name in ("student", "teacher") for key, tensor in whole().items()},
        r"2 networks, .* under 'student\.' and 'teacher\.'\. Save the state",
    ),
    "too many tensors": (
        lambda: with_tensors(**{f"fpn.cell.{number}.x": 0 for number in range(5000)}),
        r"\d{4} tensors; expected an EfficientDet",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_are_named(tmp_path: Path, kind: str) -> None:
    make, words = OTHERS[kind]
    with pytest.raises((AccountingError, UnsupportedSourceError), match=rf"a\.pth.* {words}"):
        opened(tmp_path, make())


def test_a_converted_backbone_is_named(tmp_path: Path) -> None:
    plan = BACKBONE.plan(small_config())
    convert_checkpoint(prepare(MemorySource(seeded(plan))), tmp_path / "a.pth")
    with pytest.raises(UnsupportedSourceError, match=r"a converted backbone without a detector"):
        open_checkpoint(tmp_path / "a.pth")


# Tensors of another kind.


def quantized(shape: tuple[int, ...]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(shape), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "maker"),
    [
        (quantized, "torch._utils._rebuild_qtensor"),
        (lambda shape: torch.zeros(shape).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (lambda shape: torch.zeros(shape, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
        (lambda shape: torch.zeros(shape, dtype=torch.complex64).conj().imag, "torch._utils._rebuild_tensor_v2"),
    ],
)
def test_needed_tensors_of_another_kind_are_named(tmp_path: Path, state: State, make: Any, maker: str) -> None:
    assert opened(tmp_path, {"beside": make((3,)), "state_dict": dict(state)}).variables
    state[KERNEL] = make(tuple(state[KERNEL].shape))
    words = rf"a\.pth: '{KERNEL}' is not a plain tensor: it is created by {maker}\. Save"
    with pytest.raises(UnsupportedSourceError, match=words):
        opened(tmp_path, state)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "complex64", "int64", "bool"])
def test_needed_values_of_another_kind_are_named(tmp_path: Path, state: State, dtype: str) -> None:
    state[KERNEL] = torch.zeros(32, 3, 3, 3).to(getattr(torch, dtype))
    with opened(tmp_path, state) as source, pytest.raises(AccountingError, match=rf"{STEM} .* of dtype {dtype}"):
        prepare(source)


def test_values_that_cannot_be_read_are_named(tmp_path: Path, state: State) -> None:
    with opened(tmp_path, state) as source, pytest.raises(UnsupportedSourceError, match=rf"h: {KERNEL}: it repeats"):
        source.read(STEM)


def test_a_file_that_disappeared(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.pth: cannot be read"):
        StateDict(tmp_path / "a.pth")


def test_damage_is_found_when_it_is_read(tmp_path: Path) -> None:
    values = seeded(plan_of(small_config()))
    convert_checkpoint(prepare(MemorySource(values)), tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.index(values[STEM].transpose(3, 2, 0, 1).tobytes()) + 5] ^= 4
    (tmp_path / "a.pth").write_bytes(data)
    with open_checkpoint(tmp_path / "a.pth") as source:
        words = rf"a\.pth: {KERNEL}: storage \d+ does not match its checksum \(CRC-32\)\. Download"
        with pytest.raises(CorruptFileError, match=words):
            source.read(STEM)
        with pytest.raises(EffdetError, match="checksum"):
            convert_checkpoint(prepare(source), tmp_path / "b.pth")
        assert not (tmp_path / "b.pth").exists()
