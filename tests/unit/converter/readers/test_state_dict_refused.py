"""PyTorch files that are no complete EfficientDet: one clear error that names the file, what is wrong, what to do."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.conversion import convert_checkpoint, prepare
from converter.errors import AccountingError, ConversionError, CorruptFileError, SourceError, UnsupportedSourceError
from converter.identify.families import BACKBONE
from converter.identify.own_metadata import plain_metadata
from converter.locate import open_checkpoint
from converter.readers.pytorch.state_dict import NO_METADATA, StateDict
from converter.source import VariableSource
from effdet_torch.errors import EffdetError
from effdet_torch.file_format import METADATA_KEY
from support.sources import MemorySource, placeholders, plan_of, seeded, small_config

State = dict[str, Any]
LAST = "class_net.predict.conv_pw.bias"
KERNEL = "backbone.conv_stem.weight"


def saved(path: Path, content: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are deprecated
        torch.save(content, path)
    return path


def opened(tmp_path: Path, content: Any) -> VariableSource:
    return open_checkpoint(saved(tmp_path / "a.pth", content))


def empty(shapes: dict[str, tuple[int, ...]]) -> State:
    """Tensors without values of their own: nothing needs to be read."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


@pytest.fixture
def state() -> State:
    """A small model's tensors."""
    return empty({key: entry.target_shape for key, entry in plan_of(small_config()).targets.items()})


def test_a_complete_state_dict_is_taken(tmp_path: Path, state: State) -> None:
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


def test_some_biases_are_not_all(tmp_path: Path, state: State) -> None:
    state["class_net.conv_rep.0.conv_pw.bias"] = torch.zeros(8)
    with pytest.raises(AccountingError, match=r"[1-9]\d* missing, 0 unexpected"):
        opened(tmp_path, state)


# Other networks.


def resnet() -> State:
    return dict.fromkeys(("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.bias"), torch.zeros(3))


def backbone() -> State:
    return empty({key: entry.target_shape for key, entry in plan_of(small_config()).targets.items()
                  if key.startswith("backbone.")})  # fmt: skip


def of_effdet(name: str) -> State:
    effdet = pytest.importorskip("effdet")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = effdet.create_model(name, pretrained=False, pretrained_backbone=False)
    return empty({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "a classifier": (resnet, f"no state_dict of an EfficientDet .* none ends in {LAST}; it begins with 'conv1.weight'"),
    "a backbone": (backbone, "none ends in .*; it begins with 'backbone.conv_stem.weight'"),
    "nothing": (dict, "it holds no tensors.* torch.save"),
    "a list": (lambda: [torch.zeros(3)], "it holds no tensors"),
    "a tensor": (lambda: torch.zeros(3), "it holds no tensors"),
    "numbers as keys": (lambda: {1: torch.zeros(3)}, "it holds no tensors"),
    "a whole model": (lambda: torch.nn.Linear(2, 2), r"it holds no tensors.* torch\.save\(model\.state_dict\(\)"),
    "a whole model in a checkpoint": (lambda: {"model": torch.nn.Linear(2, 2)}, r"torch\.save\(model\.state_dict\(\)"),
    "a ResNet below": (lambda: of_effdet("resdet50"), "none ends in .*; it begins with 'backbone.conv1.weight'"),
    "a MobileNet below": (lambda: of_effdet("mobiledetv3_large"), "backbone fit no EfficientNet"),
    "another BiFPN": (lambda: of_effdet("efficientdetv2_dt"), "backbone fit no EfficientNet"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_contents_are_named(tmp_path: Path, kind: str) -> None:
    make, words = OTHERS[kind]
    with pytest.raises(UnsupportedSourceError, match=rf"a\.pth: .*{words}"):
        opened(tmp_path, make())


def test_an_own_backbone_is_no_detector(tmp_path: Path) -> None:
    plan = BACKBONE.plan(small_config())
    convert_checkpoint(prepare(MemorySource(placeholders(plan))), tmp_path / "a.pth")
    with pytest.raises(UnsupportedSourceError, match=r"a converted backbone without a detector"):
        open_checkpoint(tmp_path / "a.pth")


def test_another_bifpn_on_a_backbone_that_is_known(tmp_path: Path) -> None:
    with pytest.raises(AccountingError, match=r"a\.pth is not a complete state_dict: \d+ missing, \d+ unexpected"):
        opened(tmp_path, of_effdet("efficientdet_q0"))


def test_heads_of_another_kind(tmp_path: Path, state: State) -> None:
    state["box_net.predict.conv_pw.bias"] = torch.zeros(35)
    with pytest.raises(UnsupportedSourceError, match=r"a\.pth: a custom head: the box prediction has 35 channels"):
        opened(tmp_path, state)


def test_levels_that_no_config_has(tmp_path: Path, state: State) -> None:
    state |= {f"class_net.bn_rep.0.{level}.bn.weight": torch.zeros(8) for level in range(3, 30)}
    with pytest.raises(UnsupportedSourceError, match=r"a\.pth: max_level is 32; expected 5 to 12"):
        opened(tmp_path, state)


def test_two_networks_are_not_mixed(tmp_path: Path, state: State) -> None:
    both = {f"{name}.{key}": tensor for name in ("student", "teacher") for key, tensor in state.items()}
    with pytest.raises(UnsupportedSourceError, match=r"2 networks, .* 'student\.' and 'teacher\.'\. Save the state"):
        opened(tmp_path, both)


def test_too_many_tensors(tmp_path: Path, state: State) -> None:
    state |= {f"fpn.cell.{number}.x": torch.zeros(()) for number in range(5000)}
    with pytest.raises(UnsupportedSourceError, match=r"a\.pth: \d{4} tensors; expected an EfficientDet"):
        opened(tmp_path, state)


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
    beside = {"beside": make((3,)), "state_dict": dict(state)}
    assert opened(tmp_path, beside).variables
    state[KERNEL] = make(tuple(state[KERNEL].shape))
    with pytest.raises(
        UnsupportedSourceError, match=rf"a\.pth: '{KERNEL}' is no plain tensor, it is made by {maker}\. Save"
    ):
        opened(tmp_path, state)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "complex64", "int64", "bool"])
def test_needed_values_of_another_kind_are_named(tmp_path: Path, state: State, dtype: str) -> None:
    state[KERNEL] = torch.zeros(32, 3, 3, 3).to(getattr(torch, dtype))
    with (
        opened(tmp_path, state) as source,
        pytest.raises(AccountingError, match=rf"stem/conv2d/kernel .* of dtype {dtype}"),
    ):
        prepare(source)


def test_values_that_cannot_be_read_are_named(tmp_path: Path, state: State) -> None:
    with opened(tmp_path, state) as source, pytest.raises(UnsupportedSourceError, match=rf"a\.pth: {KERNEL}: 1 values"):
        source.read("efficientnet-b0/stem/conv2d/kernel")


# Metadata.


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a converted model, as .pth and as .safetensors."""
    folder = tmp_path_factory.mktemp("own")
    for suffix in (".pth", ".safetensors"):
        convert_checkpoint(prepare(MemorySource(seeded(plan_of(small_config())))), folder / f"a{suffix}")
    return folder


def with_metadata(own: Path, path: Path, change: Callable[[Any], Any]) -> Path:
    content = torch.load(own / "a.pth", weights_only=True)
    if path.suffix == ".pth":
        return saved(path, content | {"metadata": change(content["metadata"])})
    text = change(content["metadata"])
    save_file(
        load_file(own / "a.safetensors"), path, {METADATA_KEY: text if isinstance(text, str) else json.dumps(text)}
    )
    return path


def set_config(**values: Any) -> Callable[[Any], Any]:
    return lambda metadata: metadata | {"config": metadata["config"] | values}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_config(num_scales=0), "num_scales is 0; expected a positive integer"),
        (set_config(fusion=["sum"]), "fusion is .*; expected one of fastattn"),
        (set_config(unknown=1), "unknown model setting 'unknown'"),
        (set_config(mean_rgb=[10**400, 1, 1]), "mean_rgb is"),
        (set_config(backbone="x" * 10_000), "backbone is 'xx"),
        (lambda metadata: metadata | {"config": {}}, "do not form a config"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path: Path, own: Path, suffix: str, change: Any, words: str) -> None:
    path = with_metadata(own, tmp_path / f"a{suffix}", change)
    with pytest.raises(
        CorruptFileError, match=rf"a{suffix}: the config in its metadata does not fit: .*{words}"
    ) as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_config_that_contradicts_the_tensors(tmp_path: Path, own: Path, suffix: str) -> None:
    path = with_metadata(own, tmp_path / f"a{suffix}", set_config(num_classes=7))
    with (
        open_checkpoint(path) as source,
        pytest.raises(ConversionError, match=r"its metadata sets num_classes to 7, .* show 2"),
    ):
        prepare(source)


def test_metadata_that_are_no_json(tmp_path: Path, own: Path) -> None:
    for text in ("{", "[1]", "5", "null", "[" * 100_000):
        path = with_metadata(own, tmp_path / "a.safetensors", lambda _, text=text: text)
        with pytest.raises(
            CorruptFileError, match=r"a\.safetensors: the entry 'effdet_convert' is not JSON: .*Copy it"
        ):
            open_checkpoint(path)


@pytest.mark.parametrize(
    "value", [None, "text", [1, 2], {"epoch": 3}, {"when": pickle.Pickler}, {"config": "d0"}, {"config": {"lr": 0.1}}]
)
def test_metadata_of_others_are_left_alone(tmp_path: Path, own: Path, value: Any) -> None:
    with open_checkpoint(with_metadata(own, tmp_path / "a.pth", lambda _: value)) as source:
        assert source.given == ()
        assert NO_METADATA in source.notes


def test_metadata_that_are_endless() -> None:
    cycle: dict[str, Any] = {}
    cycle["config"] = cycle
    nested: Any = []
    for _ in range(60):
        nested = [nested, nested]
    for value in (cycle, {"config": nested}, {"config": "x" * 2_000_000}, [[1, 2]]):
        assert plain_metadata(value) == {} or value == [[1, 2]]
    assert plain_metadata({"a": (1, None)}) == {"a": [1, None]}


# What recognises a file.


@pytest.mark.parametrize("length", [0x50, 0x80])
def test_safetensors_whose_length_looks_like_another_format(tmp_path: Path, length: int) -> None:
    """The first byte of a .safetensors file is a length; it may be the first of a ZIP archive or of a pickle."""
    plan = plan_of(small_config())
    path = tmp_path / "a.safetensors"
    tensors = {key: torch.zeros(entry.target_shape, dtype=torch.float16) for key, entry in plan.targets.items()}
    save_file(tensors, path, {"padding": ""})
    save_file(tensors, path, {"padding": "x" * ((length - path.read_bytes()[0]) % 256)})
    assert path.read_bytes()[0] == length
    with open_checkpoint(path) as source:
        assert isinstance(source, StateDict)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.pth: cannot be read"):
        StateDict(tmp_path / "a.pth")


def test_damage_is_found_when_it_is_read(tmp_path: Path, own: Path) -> None:
    whole = bytearray((own / "a.pth").read_bytes())
    kernel = torch.load(own / "a.pth", weights_only=True)["state_dict"][KERNEL]
    whole[whole.index(kernel.numpy().tobytes()) + 5] ^= 4
    (tmp_path / "a.pth").write_bytes(whole)
    with open_checkpoint(tmp_path / "a.pth") as source:
        words = rf"a\.pth: {KERNEL}: storage \d+ does not match its checksum\. Download"
        with pytest.raises(CorruptFileError, match=words):
            source.read("efficientnet-b0/stem/conv2d/kernel")
        with pytest.raises(EffdetError, match="checksum"):
            convert_checkpoint(prepare(source), tmp_path / "b.pth")
        assert not (tmp_path / "b.pth").exists()
