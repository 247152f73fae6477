"""`fuse`: an `EfficientDet` made ready for inference."""

from __future__ import annotations

from effdet_torch.checks import require_type
from effdet_torch.network.model import EfficientDet, Network
from effdet_torch.optimize.backbone import FusedBackbone
from effdet_torch.optimize.bifpn import FusedBiFPN
from effdet_torch.optimize.heads import FusedHead, FusedSegmentationHead


class FusedEfficientDet(Network):
    """The network of an `EfficientDet`, for inference alone; see `fuse`.

    Attributes:
        config: of the model.
        metadata: of the model.
    """

    def __init__(self, model: EfficientDet, widen: bool) -> None:
        super().__init__(model.config)
        self.metadata = model.metadata
        self.backbone, self.fpn = FusedBackbone(model.backbone, widen), FusedBiFPN(model.fpn)
        self.class_net = None if model.class_net is None else FusedHead(model.class_net)
        self.box_net = None if model.box_net is None else FusedHead(model.box_net)
        self.seg_head = None if model.seg_head is None else FusedSegmentationHead(model.seg_head)


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
