"""Networks in PyTorch files, wherever a training script puts them; their copies are told apart, or refused."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.errors import UnsupportedSourceError
from converter.readers.pytorch.copies_in_file import Copies, choose_copies, is_averages
from converter.readers.pytorch.find_network import MAX_PLACES, find_networks
from converter.readers.pytorch.torch_file import read_torch_file

State = dict[str, Any]
LAST = "class_net.predict.conv_pw.bias"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def network(seed: int) -> State:
    """Some tensors of a detector: it is found by the key of the last one."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"backbone.conv_stem.weight": (2, 3), "backbone.bn1.running_mean": (2,), "fpn.x.weight": (), LAST: (18,)}
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


RAW, AVERAGES, OTHER = network(0), network(1), network(2)


def found_in(folder: Path, content: Any) -> Copies:
    torch.save(content, folder / "a.pth")
    networks, dictionaries = find_networks(folder / "a.pth", read_torch_file(folder / "a.pth"), [LAST])
    return choose_copies(folder / "a.pth", networks, dictionaries)


def assert_holds(copies: Copies, **expected: State) -> None:
    """Compare every tensor of every copy, bit for bit."""
    assert copies.by_view.keys() == expected.keys()
    for view, state in expected.items():
        tensors = copies.by_view[view].tensors
        assert tensors.keys() == state.keys()
        assert all(tensors[key].array().tobytes() == tensor.numpy().tobytes() for key, tensor in state.items())


def with_prefix(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def beside() -> State:
    """What training saves beside the network, with tensors and objects of its own."""
    return {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, model="d0"),
        "best": np.float64(0.5),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"last_epoch": 3},
    }


KEYS = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "an unusual name", "schema")


@pytest.mark.parametrize("key", KEYS)
def test_the_network_under_any_key(tmp_path: Path, key: str) -> None:
    copies = found_in(tmp_path, {**beside(), key: RAW})
    assert_holds(copies, raw=RAW)
    assert str(copies.by_view["raw"]) == repr(key)
    assert copies.unread is None


DEEP: dict[str, tuple[Callable[[], Any], str]] = {
    "two keys": (lambda: {"checkpoint": {"net": RAW}, "epoch": 1}, "checkpoint / net"),
    "three keys": (lambda: {"a": {"b": {"c": RAW, "step": 1}}}, "a / b / c"),
    "a list": (lambda: [RAW, {"lr": 0.1}], "0"),
    "a tuple in a dictionary": (lambda: {"saved": (3, RAW)}, "saved / 1"),
    "attributes of an object": (lambda: {"trainer": argparse.Namespace(net=RAW)}, "trainer / net"),
    "DataParallel": (lambda: {"model": with_prefix("module.", RAW)}, "model / module."),
    "torch.compile": (lambda: with_prefix("_orig_mod.", RAW), ""),
    "compiled in DataParallel": (lambda: with_prefix("module._orig_mod.model.", RAW), "module.model."),
    "a compiled part": (
        lambda: {key.replace("backbone.", "backbone._orig_mod."): tensor for key, tensor in RAW.items()},
        "",
    ),
    "Lightning": (
        lambda: {
            "pytorch-lightning_version": "2.2.0",
            "epoch": 1,
            "global_step": 20,
            "state_dict": OrderedDict(with_prefix("model.", RAW)) | {"loss.weight": torch.zeros(2)},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x.ckpt"}},
            "optimizer_states": [beside()["optimizer"]],
            "lr_schedulers": [],
            "hyper_parameters": {"lr": 0.1},
        },
        "state_dict / model.",
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deeper_places_and_wrappers(tmp_path: Path, kind: str) -> None:
    make, place = DEEP[kind]
    copies = found_in(tmp_path, make())
    assert_holds(copies, raw=RAW)
    assert str(copies.by_view["raw"]) == repr(place)


def test_a_network_four_keys_deep_is_not_searched(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match=rf"no key ends in {LAST}; it holds no tensors"):
        found_in(tmp_path, {"a": {"b": {"c": {"d": RAW}}}})


# Averages.


@pytest.mark.parametrize(
    ("key", "expected"),
    [(key, True) for key in ("ema", "EMA", "model_ema", "state_dict_ema", "ema_state_dict", "emaModel", "modelEMA")]
    + [(key, True) for key in ("averaged_model", "average", "exponential_moving_average", "shadow_params", "swa_model")]
    + [(key, False) for key in ("schema", "semantic", "remap", "exp_avg", "swap", "teacher", "model", "theme", "")],
)
def test_words_that_mean_averages(key: str, expected: bool) -> None:
    assert is_averages((key,)) == expected
    assert is_averages(("outer", key)) == expected


PAIRS: dict[str, Callable[[], Any]] = {
    "timm": lambda: {"state_dict": RAW, "state_dict_ema": AVERAGES},
    "effdet": lambda: {"model": RAW, "model_ema": AVERAGES},
    "ema_state_dict": lambda: {"state_dict": RAW, "ema_state_dict": AVERAGES},
    "ema": lambda: {"net": RAW, "ema": AVERAGES},
    "ema_model": lambda: {"weights": RAW, "ema_model": AVERAGES},
    "averaged_model": lambda: {"network": RAW, "averaged_model": AVERAGES},
    "the averages first": lambda: {"ema": AVERAGES, "model": RAW},
    "nested": lambda: {"model": RAW, "ema": {"decay": 0.999, "module": with_prefix("module.", AVERAGES)}},
    "a callback": lambda: {
        "state_dict": with_prefix("model.", RAW),
        "callbacks": {"EMACallback": {"ema_state_dict": AVERAGES}},
    },
    "in one state_dict": lambda: {
        "state_dict": with_prefix("model.", RAW) | with_prefix("ema_model.module.", AVERAGES)
    },
    "beside the bare keys": lambda: RAW | with_prefix("ema.", AVERAGES),
    "in one object for averages": lambda: {"ema": with_prefix("online.", RAW) | with_prefix("ema_model.", AVERAGES)},
    "AveragedModel": lambda: {
        "model": RAW,
        "second": with_prefix("module.", AVERAGES) | {"n_averaged": torch.tensor(3)},
    },
}


@pytest.mark.parametrize("kind", PAIRS)
def test_raw_values_and_averages(tmp_path: Path, kind: str) -> None:
    assert_holds(found_in(tmp_path, PAIRS[kind]()), raw=RAW, ema=AVERAGES)


@pytest.mark.parametrize(
    "content",
    [{"ema_state_dict": AVERAGES}, with_prefix("module.", AVERAGES) | {"n_averaged": torch.tensor(3)}],
    ids=["by its key", "AveragedModel"],
)
def test_averages_alone(tmp_path: Path, content: State) -> None:
    assert_holds(found_in(tmp_path, content), ema=AVERAGES)


class Detector(torch.nn.Module):
    """A module with the keys of some tensors."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for key, tensor in state.items():
            *modules, name = key.split(".")
            module: torch.nn.Module = self
            for part in modules:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer(name, tensor)


class ModelEmaV2(torch.nn.Module):
    """Called like timm's."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


def test_pickled_averages(tmp_path: Path) -> None:
    """Of their own class or under their own key; and a module that has both networks."""
    averages, both = ModelEmaV2(Detector(AVERAGES)), ModelEmaV2(Detector(RAW))
    both.ema = Detector(AVERAGES)
    assert_holds(found_in(tmp_path, averages), ema=AVERAGES)
    assert_holds(found_in(tmp_path, averages.module), raw=AVERAGES)  # the control
    assert_holds(found_in(tmp_path, {"a": Detector(RAW), "b": averages}), raw=RAW, ema=AVERAGES)
    assert_holds(found_in(tmp_path, {"model": RAW, "ema": averages.module}), raw=RAW, ema=AVERAGES)
    assert_holds(found_in(tmp_path, both), raw=RAW, ema=AVERAGES)


def test_the_same_network_as_raw_values_and_averages(tmp_path: Path) -> None:
    """As in the first epoch, or of a script that saves one dictionary twice."""
    assert_holds(found_in(tmp_path, {"state_dict": RAW, "state_dict_ema": RAW}), raw=RAW, ema=RAW)


def test_averages_of_parameters_only(tmp_path: Path) -> None:
    """Many training scripts average what has gradients; they evaluate it with the model's own statistics."""
    shadow = {key: tensor for key, tensor in AVERAGES.items() if not key.endswith(STATISTICS)}
    copies = found_in(tmp_path, {"model": RAW, "ema": {"decay": 0.9, "shadow": shadow}})
    assert_holds(copies, raw=RAW, ema=RAW | shadow)
    assert "under 'ema / shadow' hold no batch norm statistics" in copies.notes[0]
    assert_holds(found_in(tmp_path, {"ema": shadow}), ema=shadow)  # incomplete, as the accounting will say


UNREAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: {"model": RAW, "ema": {"shadow_params": [torch.zeros(3)]}}, "ema / shadow_params"),
    "other names": (lambda: {"model": RAW, "ema_state_dict": {"conv1": torch.zeros(3)}}, "ema_state_dict"),
    "names without dots": (
        lambda: {"state_dict": with_prefix("model.", RAW) | {"model_ema.conv1weight": torch.zeros(3)}},
        "model_ema.conv1weight",
    ),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_averages_that_cannot_be_read_are_named(tmp_path: Path, kind: str) -> None:
    make, place = UNREAD[kind]
    copies = found_in(tmp_path, make())
    assert_holds(copies, raw=RAW)
    assert copies.unread == place


# What cannot be told apart.

SEVERAL: dict[str, tuple[Callable[[], Any], str]] = {
    "two keys": (lambda: {"state_dict": RAW, "best": AVERAGES}, "under 'state_dict' and 'best'"),
    "student and teacher": (lambda: {"student": RAW, "teacher": AVERAGES}, "under 'student' and 'teacher'"),
    "two prefixes": (
        lambda: {"net": with_prefix("a.", RAW) | with_prefix("b.", AVERAGES)},
        r"under 'net / a\.' and 'net / b\.'",
    ),
    "two averages": (
        lambda: {"model": RAW, "ema": AVERAGES, "swa": OTHER},
        r"\(called averages: 'ema' and 'swa'\): under 'model' and 'ema' and 'swa'",
    ),
    "a wrapper and its module": (lambda: RAW | with_prefix("_orig_mod.", AVERAGES), r"under '' and '_orig_mod\.'"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_networks_are_refused(tmp_path: Path, kind: str) -> None:
    make, words = SEVERAL[kind]
    with pytest.raises(UnsupportedSourceError, match=rf"a\.pth: \d networks, of which .*{words}\. Save the state_dict"):
        found_in(tmp_path, make())


def test_many_networks_are_refused(tmp_path: Path) -> None:
    many = {f"copy{number}": dict(RAW) for number in range(MAX_PLACES + 1)}
    for content in (many, {LAST: 0} | {f"{name}.{LAST}": RAW[LAST] for name in many}):
        with pytest.raises(UnsupportedSourceError, match=rf"more than {MAX_PLACES} networks"):
            found_in(tmp_path, content)


def test_the_same_network_twice_counts_once(tmp_path: Path) -> None:
    """A script that saves the model's state_dict under two keys; in the file, both share their storages."""
    for content in ({"model": RAW, "state_dict": dict(RAW)}, {"model": RAW, "state_dict": RAW}):
        assert_holds(found_in(tmp_path, content), raw=RAW)
    with pytest.raises(UnsupportedSourceError, match="2 networks"):  # the control: equal in all but one value
        found_in(tmp_path, {"model": RAW, "state_dict": RAW | {LAST: RAW[LAST] + 1}})


def test_moments_by_name_are_no_network(tmp_path: Path) -> None:
    moments = {key: tensor for key, tensor in OTHER.items() if not key.endswith(STATISTICS)}
    copies = found_in(tmp_path, {"model": RAW, "optimizer": {"exp_avg": moments}})
    assert_holds(copies, raw=RAW)
    assert copies.notes == ("what lies under 'optimizer / exp_avg' has no batch norm statistics: it is no network",)


@pytest.mark.timeout(60)
def test_dictionaries_that_hold_each_other_end(tmp_path: Path) -> None:
    """A file of a few kilobytes must not take hours: every dictionary is searched once."""
    inner: Any = []
    for _ in range(3):
        inner = [inner] * 3000
    outer: State = {"loop": inner}
    outer["self"] = outer
    with pytest.raises(UnsupportedSourceError, match="it holds no tensors"):
        found_in(tmp_path, outer)
    outer["net"] = RAW
    assert_holds(found_in(tmp_path, outer), raw=RAW)
