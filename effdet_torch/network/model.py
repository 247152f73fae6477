"""EfficientDet: backbone -> BiFPN -> class and box heads, or a segmentation head, or both.

Every intermediate result that can be compared with TensorFlow is the output of one module, so a forward hook on
`model.get_submodule(name)` sees it. (B, C, H, W) each; S, N, C, J, R, L count from 0, L is the position of the level:

    backbone.bn1                    stem, after the activation
    backbone.blocks.S.N             block N of stage S
    fpn.resample.3, .4 (.5)         P6, P7 (P8) as they enter the BiFPN
    fpn.cell.C.fnode.J              BiFPN node, after its batch norm
    class_net.bn_rep.R.L            head repeat R on level L, after the activation; box_net likewise
    class_net.add_rep.R             head repeat R > 0 plus its input, if the heads are residual; once per level
    class_net.predict               class logits; called once per level, fine to coarse; box_net likewise
    seg_head.bn_rep.R               step R of the segmentation head, after the activation
    seg_head.predict                logits of the pixels' classes

None of these outputs is overwritten in place later. State dict keys are those of the `effdet` package.
"""

# ruff: noqa: ANN201
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from effdet_torch.architecture.feature_sizes import feature_sizes, require_doubling
from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.network.backbone import Backbone
from effdet_torch.network.bifpn import BiFPN
from effdet_torch.network.heads import Head, create_box_head, create_class_head
from effdet_torch.network.segmentation import SegmentationHead

# The modules listed above.
INNER_OUTPUTS = re.compile(
    r"backbone\.(bn1|blocks\.\d+\.\d+)|fpn\.(resample\.\d+|cell\.\d+\.fnode\.\d+)"
    r"|(class|box)_net\.(bn_rep\.\d+\.\d+|add_rep\.\d+|predict)|seg_head\.(bn_rep\.\d+|predict)"
)
# (axes, size of the last one) of wrong images -> what would help.
HINTS = {(4, 3): ": use images.permute(0, 3, 1, 2)", (3, 3): ": use images.permute(2, 0, 1)[None]"}


class Network(nn.Module):
    """What an `EfficientDet` and the network that `optimize.fuse` makes of it have in common.

    Attributes:
        config: what was built.
        metadata: where the weights came from.
        class_net: None without object detection.
        box_net: None without object detection.
        seg_head: None without segmentation.
    """

    if TYPE_CHECKING:  # TorchScript would read them
        config: EfficientDetConfig
        metadata: dict[str, Any]
        backbone: nn.Module
        fpn: nn.Module
        class_net: nn.Module | None
        box_net: nn.Module | None
        seg_head: nn.Module | None

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        self.config, self.metadata = config, {}
        self.min_level, self.max_level = min(config.feature_sizes()), config.max_level

    # TorchScript infers what is returned, which depends on the heads; behind `type: ignore` it takes no other comment.
    def forward(self, images: Tensor):  # type: ignore[no-untyped-def]
        """Predict classes and boxes for every anchor, classes for every pixel, or both.

        Args:
            images: (B, 3, H, W), RGB, normalised; any size, not only `config.image_size`. A segmentation head needs
                sides that halve exactly from the first level to the last: multiples of 2 ** max_level do.

        Returns:
            class_logits: per level, fine to coarse, (B, anchors * num_classes, H_l, W_l); channel = anchor *
                num_classes + class.
            box_deltas: per level (B, anchors * 4, H_l, W_l); channel = anchor * 4 + coordinate, order (ty, tx, th, tw).
            mask_logits: (B, seg_num_classes, H_s, W_s), twice as large as the finest level: a fourth of the image's
                sides where that is P3.

            These are (class_logits, box_deltas) for object detection, mask_logits for segmentation, and
            (class_logits, box_deltas, mask_logits) for both.

        Raises:
            ConfigError: The images are too small for the pyramid levels, or do not fit a segmentation head.
            UsageError: They are not a tensor of this shape, or hold whole numbers.
        """
        if not is_scripting():  # TorchScript checks arguments itself
            require_images(images)
        sizes = feature_sizes(images.shape[2], images.shape[3], self.min_level, self.max_level)
        if self.seg_head is not None:
            require_doubling(sizes)
        features = self.fpn(self.backbone(images))
        if self.class_net is None or self.box_net is None:
            assert self.seg_head is not None
            return self.seg_head(features)
        if self.seg_head is None:
            return self.class_net(features), self.box_net(features)
        return self.class_net(features), self.box_net(features), self.seg_head(features)


class EfficientDet(Network):
    """EfficientDet without pre- and postprocessing.

    Args:
        config: what to build.
        drop_path_rate: stochastic depth of the backbone in training. The official training used 0.2 except for b0 (0).

    Attributes:
        config: what was built.
        metadata: where the weights came from; empty unless `load_model` filled it.
        untrained_digests: of the last layers of each head, when `metadata` began to state that parts are untrained.

    Raises:
        ConfigError: `config.image_size` is too small for the pyramid levels, or `drop_path_rate` is not in 0..1.
        UsageError: `config` is something else.

    Source: EfficientDet (arXiv:1911.09070) figure 3.
    """

    if TYPE_CHECKING:  # TorchScript would read it
        untrained_digests: dict[str, frozenset[str]]

    def __init__(self, config: EfficientDetConfig, *, drop_path_rate: float = 0.0) -> None:
        require_type(config, EfficientDetConfig, "config", "an EfficientDetConfig, which get_config returns")
        super().__init__(config)
        self.untrained_digests = {}
        if not 0 <= drop_path_rate < 1:
            raise ConfigError(f"drop_path_rate is {drop_path_rate!r}; expected 0 or more, below 1")
        self.backbone: Backbone = Backbone(
            config.backbone, config.activation, drop_path_rate, config.min_level, config.backbone_style, config.taps
        )
        self.fpn: BiFPN = BiFPN(config)
        self.class_net: Head | None = create_class_head(config) if config.detects else None
        self.box_net: Head | None = create_box_head(config) if config.detects else None
        self.seg_head: SegmentationHead | None = SegmentationHead(config) if config.segments else None


def inner_name(module: str, call: int) -> str:
    """Return the name of one output of a module; calls of a module that serves several levels count from 0."""
    return module if call == 0 else f"{module}@{call}"


def require_images(images: Tensor) -> None:
    """Refuse what is not network input, as `EfficientDet.forward` says."""
    require_type(images, Tensor, "images", "a tensor (B, 3, H, W); Predictor takes arrays, Pillow images and files")
    if images.ndim != 4 or images.shape[1] != 3:
        hint = HINTS.get((images.ndim, images.shape[-1] if images.ndim else 0), "")
        raise UsageError(f"images have the shape {tuple(images.shape)}; expected (B, 3, H, W){hint}")
    if not images.is_floating_point():
        raise UsageError(f"images hold {images.dtype}; expected normalised floats, as Predictor.prepare returns them")
