"""`fuse`: an `EfficientDet` made ready for inference."""

from __future__ import annotations

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from effdet_torch.architecture.backbone import feature_sizes
from effdet_torch.checks import require_type
from effdet_torch.network.model import EfficientDet, require_images
from effdet_torch.optimize.backbone import FusedBackbone
from effdet_torch.optimize.bifpn import FusedBiFPN
from effdet_torch.optimize.heads import FusedHead


class FusedEfficientDet(nn.Module):
    """The network of an `EfficientDet`, for inference alone; see `fuse`.

    Attributes:
        config: of the model.
        metadata: of the model.
    """

    def __init__(self, model: EfficientDet, widen: bool) -> None:
        super().__init__()
        self.config, self.metadata = model.config, model.metadata
        self.min_level, self.max_level = model.min_level, model.max_level
        self.backbone, self.fpn = FusedBackbone(model.backbone, widen), FusedBiFPN(model.fpn)
        self.class_net, self.box_net = FusedHead(model.class_net), FusedHead(model.box_net)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Predict classes and boxes; see `EfficientDet.forward`, which also says what is raised."""
        if not is_scripting():  # TorchScript checks arguments itself
            require_images(images)
        feature_sizes(images.shape[2], images.shape[3], self.min_level, self.max_level)
        features = self.fpn(self.backbone(images))
        return self.class_net(features), self.box_net(features)


def fuse(model: EfficientDet, *, widen: bool = True) -> FusedEfficientDet:
    """Return a network with equal outputs that is faster, and cannot be trained.

    Batch norms are folded into convolutions, fusion weights are constants, activations and sums work in place. Inner
    results have the names that `effdet_torch.network.model` lists. `model` stays as it is; tensors that nothing was
    folded into are shared with it, and later changes of the others are not seen.

    Args:
        model: in any dtype, on any device; its running statistics are used, whatever mode it is in.
        widen: pad the depthwise convolutions of stride 2 by wider kernels, which is fast on a CPU.

    Raises:
        UsageError: `model` is something else.
    """
    require_type(model, EfficientDet, "model", "an EfficientDet, which load_model returns")
    return FusedEfficientDet(model, widen).eval()
