"""Objective."""

from effdet_torch.train.objective.targets import TargetAssigner, Targets

__all__ = ["TargetAssigner", "Targets"]
