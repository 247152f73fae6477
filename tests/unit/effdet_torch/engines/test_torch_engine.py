"""An engine runs the model as it is now, whatever happened to it since the last call."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

from effdet_torch.engines import torch_engine
from effdet_torch.engines.torch_engine import TorchEngine
from effdet_torch.network.model import EfficientDet
from support.coco_samples import small_model
from support.networks import max_over_rms

PIXELS = torch.ones(1, 3, 128, 128)


def pickled(engine: TorchEngine) -> TorchEngine:
    copied: TorchEngine = pickle.loads(pickle.dumps(engine))
    return copied


def used_engine(fused: bool = True) -> TorchEngine:
    model = small_model(num_classes=3, image_size=(128, 128))
    engine = pickled(TorchEngine(model, torch.device("cpu"), fused=fused))  # so every tensor has the count of a copy
    engine(PIXELS)
    return engine


def change(model: EfficientDet) -> None:
    with torch.no_grad():
        model.get_parameter("class_net.bn_rep.0.0.bn.weight").mul_(3)  # goes into a convolution


def is_current(engine: TorchEngine) -> bool:
    """Whether an engine gives what its model gives."""
    with torch.inference_mode():
        expected = copy.deepcopy(engine.model).eval()(PIXELS)[0][0]
    return max_over_rms(engine(PIXELS)[0][0], expected) < 1e-3


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickled])
def test_a_copy_after_a_change_runs_the_changed_model(copied: Callable[[TorchEngine], TorchEngine]) -> None:
    engine = used_engine()
    change(engine.model)
    other = copied(engine)
    assert is_current(other)
    change(other.model)
    assert is_current(other)


@pytest.mark.parametrize("fused", [True, False])
def test_a_replaced_module_runs_in_eval_mode(fused: bool) -> None:
    engine = used_engine(fused)
    engine.model.class_net = small_model(num_classes=3, image_size=(128, 128)).class_net.train()
    change(engine.model)
    assert is_current(engine)


def test_a_failed_fusion_does_not_bring_the_old_network_back(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = used_engine()
    change(engine.model)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(torch_engine, "fuse", fail)
        with pytest.raises(RuntimeError, match="no"):
            engine(PIXELS)
    assert is_current(engine)
