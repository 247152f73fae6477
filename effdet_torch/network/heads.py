"""Class and box heads: the same convolutions on every level, a separate batch norm for each level.

Source: EfficientDet (arXiv:1911.09070) section 4.2; focal loss (arXiv:1708.02002) section 4.1 for the prior; the
official code's `ClassNet` and `BoxNet`.
"""

from __future__ import annotations

from torch import Tensor, nn

from effdet_torch.architecture.heads import CLASS_BIAS
from effdet_torch.config import Activation, EfficientDetConfig
from effdet_torch.network.layers import ACTIVATIONS, DropPath, batch_norm, node_conv

BOX_COORDINATES = 4


class BatchNormAct(nn.Module):
    """Batch norm of one repeat on one level, and the activation after it."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.bn = batch_norm(channels)
        self.act = ACTIVATIONS[activation]()

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        activated: Tensor = self.act(self.bn(features))
        return activated


class LevelBatchNorms(nn.ModuleList):
    """The batch norms of one repeat, one per level, fine to coarse."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map [(B, C, H_l, W_l)] to the same shapes."""
        activated: list[Tensor] = []
        for level_index, norm in enumerate(self):
            activated.append(norm(features[level_index]))
        return activated


class Residual(nn.Module):
    """Add the input of a repeat to its output, which training drops with the probability 1 - `survival_prob`.

    Without a `survival_prob` there is nothing to add.
    """

    def __init__(self, survival_prob: float) -> None:
        super().__init__()
        self.adds = survival_prob > 0
        self.drop = DropPath(1 - survival_prob)

    def forward(self, output: Tensor, features: Tensor) -> Tensor:
        """Map output and input of a repeat, (B, C, H, W) each, to their sum."""
        if not self.adds:
            return output
        dropped: Tensor = self.drop(output)
        return dropped + features


class Head(nn.Module):
    """Predict `outputs` channels per anchor on every level; channel = anchor * outputs + output."""

    def __init__(self, config: EfficientDetConfig, outputs: int, bias_init: float = 0.0) -> None:
        super().__init__()
        channels, repeats = config.fpn_channels, range(config.head_repeats)
        self.conv_rep = nn.ModuleList(node_conv(config, channels, bias=config.redundant_bias) for _ in repeats)
        self.bn_rep = nn.ModuleList(
            LevelBatchNorms(BatchNormAct(channels, config.activation) for _ in config.levels) for _ in repeats
        )
        self.add_rep = nn.ModuleList(Residual(config.survival_prob if repeat else 0.0) for repeat in repeats)
        self.predict = node_conv(config, config.anchors_per_location * outputs, bias=True)
        for name, parameter in self.predict.named_parameters():
            if name.endswith(".bias"):
                nn.init.constant_(parameter, bias_init)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map [(B, C, H_l, W_l)] to [(B, anchors * outputs, H_l, W_l)], fine to coarse."""
        for conv, norms, add in zip(self.conv_rep, self.bn_rep, self.add_rep, strict=True):
            outputs = norms([conv(level_features) for level_features in features])
            features = [add(output, features[level]) for level, output in enumerate(outputs)]
        return [self.predict(level_features) for level_features in features]


def create_class_head(config: EfficientDetConfig) -> Head:
    """Build the class head; its bias starts every class at probability 0.01, which keeps focal loss stable at first."""
    return Head(config, config.num_classes, bias_init=CLASS_BIAS)


def create_box_head(config: EfficientDetConfig) -> Head:
    """Build the box head; output order (ty, tx, th, tw)."""
    return Head(config, BOX_COORDINATES)
