"""What each of several processes does in the tests of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effdet_torch.data.sources import DataSource
from effdet_torch.metrics.evaluators import RECORD
from effdet_torch.processes import Processes
from effdet_torch.train.norms import prepare_norms
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.validate import validate
from support.coco_samples import small_model


def validated(processes: Processes, root: Path, seeds: tuple[int, ...], batch: int) -> dict[str, Any] | None:
    """Validate a model that is in training; each process has the weights of its own seed."""
    model = small_model(seeds[processes.rank]).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    prepare_norms(model, Recipe(bn_variance="biased"), processes)
    parts = dict(model.named_modules()), model.state_dict()
    before = [(type(module), module.training) for module in parts[0].values()]
    values = [tensor.clone() for tensor in parts[1].values()]
    seen: list[tuple[int, int]] = []
    data = DataSource(coco=root).read(None)
    found = validate(
        model, data, processes, batch=batch, workers=0, evaluator=RECORD, progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (len(processes.share(data.images)),) * 2
    assert [(type(module), module.training) for module in parts[0].values()] == before
    for now, (old, same) in zip(model.state_dict().values(), zip(values, parts[1].values(), strict=True), strict=True):
        assert now.data_ptr() == same.data_ptr()
        assert now.stride() == old.stride()
        assert torch.equal(now, old)
    if found is None:
        return None
    classes = {row.name: (row.objects, dict(row.metrics)) for row in found.classes}
    return {"results": found.results, "metrics": found.boxes.metrics, "classes": classes}
