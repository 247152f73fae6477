"""The official trainer's steps in float64: their inputs, and how far ours are from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from converter.locate import open_checkpoint
from effdet_torch.config import get_config
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.numpy_preprocess import preprocess
from effdet_torch.train import step as step_module
from effdet_torch.train.objective.loss import DetectionLoss
from effdet_torch.train.objective.targets import TargetAssigner, Targets
from effdet_torch.train.recipe import OFFICIAL, Recipe
from effdet_torch.train.step import StepResult, TrainStep
from effdet_torch.train.updates.schedule import make_schedule
from support.golden import seeded_view
from support.sources import converted, plan_of, reverted
from support.training import LabelledBoxes, load_arrays, load_json

CONFIG = get_config("d0", image_size=256, redundant_bias=True)
PLAN = plan_of(CONFIG)
IMAGES_PER_UPDATE, EXAMPLES = 2, 6
PATTERNS = {None: None, "(efficientnet|fpn_cells|resample_p6)": "(backbone|fpn)"}


class TrainingBatch(NamedTuple):
    """What `TrainStep` needs."""

    images: Tensor
    targets: Targets


@dataclass(frozen=True)
class Oracle:
    """The steps of all cases, and where their images are."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]
    images: Path

    @classmethod
    def load(cls, shared: Path) -> Oracle:
        if not (shared / "reference" / "training" / "training_steps.npz").is_file():
            pytest.skip("no official training steps (../shared/reference/training)")
        facts = load_json(shared, "training_steps.json")
        return cls(load_arrays(shared, "training_steps.npz"), facts, shared / "coco50" / "val2017")

    def recipe(self, case: str, **changes: Any) -> Recipe:
        """Return the recipe of a case. The official runs use these decays as float32 numbers."""
        stated = self.facts[case]["config"]
        settings = {
            "epochs": stated["num_epochs"],
            "batch": stated["batch_size"],
            "optimizer": stated["optimizer"],
            "base_rate": stated["learning_rate"],
            "momentum": float(np.float32(stated["momentum"])),
            "ema": float(np.float32(stated["moving_average_decay"])),
            "weight_decay": stated["weight_decay"],
            "clip": stated["clip_gradients_norm"],
            "label_smoothing": stated["label_smoothing"],
            "freeze": PATTERNS[stated["var_freeze_expr"]],
            "freeze_bn": self.facts[case]["frozen_bn"],
        }
        return replace(OFFICIAL, **(settings | changes))

    def batch(self, case: str, step: int) -> TrainingBatch:
        """Return the images and targets of a step, after a comparison of the pixels with the official ones."""
        names = [f"{number:012}.jpg" for number in self.facts[case]["steps"][step]["images"]]
        pixels = [np.asarray(Image.open(self.images / name).convert("RGB")) for name in names]
        images = preprocess(pixels, CONFIG)[0]
        sampled = images.transpose(0, 2, 3, 1).reshape(-1)[self.arrays[f"batch_{step}|input_index"]]
        np.testing.assert_allclose(sampled, self.arrays[f"batch_{step}|input_value"], atol=2e-6)
        boxes = [self.boxes(step, row) for row in range(len(names))]
        targets = TargetAssigner(CONFIG)([b.boxes_xyxy for b in boxes], [b.labels for b in boxes])
        return TrainingBatch(torch.from_numpy(images), targets)

    def boxes(self, step: int, row: int) -> LabelledBoxes:
        prefix = f"batch_{step}|{row}"
        renamed = {f"{prefix}|boxes_yxyx": self.arrays[f"{prefix}|boxes_yxyx_px"]}
        return LabelledBoxes.of({**renamed, f"{prefix}|classes": self.arrays[f"{prefix}|classes"]}, prefix)

    def steps(self, case: str) -> int:
        return len(self.facts[case]["steps"])


def start_model(shared: Path, weights: str, seeded: ModuleType, dtype: torch.dtype = torch.float64) -> EfficientDet:
    """Return the model that the official runs start from: raw weights of a checkpoint, or seeded ones."""
    if weights == "seeded":
        variables = seeded_view(shared, seeded, "d0", "raw")
    else:
        with open_checkpoint(shared / "trained_d0_256") as source:
            variables = {name: source.read(name) for name in PLAN.variables}
    model = EfficientDet(CONFIG).to(dtype)
    arrays = converted(PLAN, variables, view="raw", dtype=np.dtype(str(dtype).removeprefix("torch.")))
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return model


class Run:
    """Our training of one case, compared with the official one after every step."""

    def __init__(self, oracle: Oracle, case: str, model: EfficientDet, **changes: Any) -> None:
        self.oracle, self.case = oracle, case
        recipe = oracle.recipe(case, **changes)
        schedule = make_schedule(recipe, IMAGES_PER_UPDATE, EXAMPLES / IMAGES_PER_UPDATE)
        self.train = TrainStep(model, recipe, schedule, DetectionLoss(recipe, CONFIG))
        self.model, self.gradients, self.clipped = model, dict[str, Tensor](), dict[str, Tensor]()

    def step(self) -> tuple[StepResult, dict[str, float]]:
        """Do one step; return what it returned, and the largest error of every quantity."""
        number = self.train.step
        with self.recorded():
            result = self.train([self.oracle.batch(self.case, number)])
        errors = self.loss_errors(number, result)
        if number < len(self.oracle.arrays[f"{self.case}|gradient|norm"]):
            errors |= self.gradient_errors("gradient", number, self.gradients)
        if number == 0:
            errors |= self.gradient_errors("clipped", number, self.clipped)
        assert self.train.averages is not None
        values = {**self.model.state_dict(), **self.train.averages.values}
        errors |= self.value_errors("weights", number, self.model.state_dict())
        errors |= self.value_errors("ema", number, values)
        return result, errors

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the gradients before and after the clips."""
        original = step_module.clip_gradients

        def clip(gradients: Any, limit: float) -> Tensor:
            named = self.train.trained
            self.gradients = {name: parameter.grad.clone() for name, parameter in named.items()}
            norm = original(gradients, limit)
            self.clipped = {name: parameter.grad.clone() for name, parameter in named.items()}
            return norm

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_module, "clip_gradients", clip)
            yield

    def loss_errors(self, number: int, found: StepResult) -> dict[str, float]:
        """Return relative errors of the losses and of the norm of all gradients."""
        official = self.oracle.facts[self.case]["steps"][number]
        names = {"total_loss": found.total, "class_loss": found.classes, "box_loss": found.boxes}
        names |= {"reg_l2_loss": found.l2, "lr": found.lr, "gradient_global_norm": found.gradient_norm}
        return {name: abs(value - official[name]) / official[name] for name, value in names.items()}

    def gradient_errors(self, kind: str, number: int, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the largest error of the samples, as a part of the norm of all gradients."""
        key, rows = f"{self.case}|{kind}", self.oracle.arrays[f"{self.case}|gradient_row"]
        expected = {rows[i]: i for i in range(len(rows))}
        whole = np.linalg.norm(self.oracle.arrays[f"{key}|norm"][number])
        zeros = {name: torch.zeros_like(tensor) for name, tensor in self.model.state_dict().items()}
        arrays = self.official_layout({**zeros, **found})
        return {kind: self.largest(arrays, key, number, expected) / whole}

    def value_errors(self, kind: str, number: int, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the largest errors of weights and of statistics, or of their averages."""
        arrays = self.official_layout(found)
        moving = {i: i for i, name in enumerate(self.oracle.arrays["names"]) if "/moving_" in name}
        others = {i: i for i in range(len(self.oracle.arrays["names"])) if i not in moving}
        key = f"{self.case}|{kind}"
        return {
            kind: self.largest(arrays, key, number, others),
            f"{kind} of statistics": self.largest(arrays, key, number, moving),
        }

    def largest(self, arrays: Mapping[str, NDArray[Any]], key: str, number: int, rows: Mapping[int, int]) -> float:
        """Return the largest difference of samples; `rows`: row of `names` -> row of the stored array."""
        names, index = self.oracle.arrays["names"], self.oracle.arrays["sample_index"]
        samples = self.oracle.arrays[f"{key}|sample"][number]
        worst = 0.0
        for row, stored in rows.items():
            array = arrays[names[row]].reshape(-1)
            worst = max(worst, float(np.abs(array[index[row]] - samples[stored]).max()))
        return worst

    @staticmethod
    def official_layout(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Return {TensorFlow name: array}; also of gradients, which move as their tensors do."""
        return reverted({name: tensor.detach().numpy() for name, tensor in tensors.items()}, PLAN)
