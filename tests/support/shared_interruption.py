"""What each of several processes does in the test of an interruption."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from effdet_torch.errors import TrainingError
from effdet_torch.processes import Processes
from effdet_torch.train.recipe import make_recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.setup import set_up
from effdet_torch.train.step import StepResult, TrainStep
from effdet_torch.train.trainer import Trainer


def interrupted(processes: Processes, data: Path, source: Path, out: Path) -> tuple[str, list[float]]:
    """Train until the last process gets a SIGTERM; return the error, and statistics of this process before it."""
    recipe = make_recipe("default", epochs=2, batch=2)
    request = TrainRequest(data, out, recipe, source=str(source), workers=0, device="cpu")
    setup = set_up(request, processes, None)
    real, means = TrainStep.__call__, list[float]()

    def signalled(self: TrainStep, batches: object) -> StepResult:
        found = real(self, batches)  # type: ignore[arg-type]
        means[:] = setup.model.state_dict()["backbone.bn1.running_mean"].tolist()
        if processes.rank == processes.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    TrainStep.__call__ = signalled  # type: ignore[method-assign]
    try:
        Trainer(setup, None).run()
    except TrainingError as error:
        return str(error), means
    return "", means
