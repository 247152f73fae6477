"""What a network is trained to say and how wrong it is: targets and losses, for our loop or any other."""

from effdet_torch.train.objective.loss import DetectionLoss, Losses
from effdet_torch.train.objective.normalizer import MovingNormalizer
from effdet_torch.train.objective.targets import TargetAssigner, Targets, merge

__all__ = ["DetectionLoss", "Losses", "MovingNormalizer", "TargetAssigner", "Targets", "merge"]
