"""EfficientDet: backbone -> BiFPN -> class and box heads.

Every intermediate result that can be compared with TensorFlow is the output of one module, so a forward hook on
`model.get_submodule(name)` sees it. (B, C, H, W) each; S, N, C, J, R, L count from 0, L is the position of the level:

    backbone.bn1                    stem, after the activation
    backbone.blocks.S.N             block N of stage S
    fpn.resample.3, .4 (.5)         P6, P7 (P8) as they enter the BiFPN
    fpn.cell.C.fnode.J              BiFPN node, after its batch norm
    class_net.bn_rep.R.L            head repeat R on level L, after the activation; box_net likewise
    class_net.add_rep.R             head repeat R > 0 plus its input, if the heads are residual; once per level
    class_net.predict               class logits; called once per level, fine to coarse; box_net likewise

None of these outputs is overwritten in place later. State dict keys are those of the `effdet` package.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from effdet_torch.architecture.backbone import feature_sizes
from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.network.backbone import Backbone
from effdet_torch.network.bifpn import BiFPN
from effdet_torch.network.heads import create_box_head, create_class_head

# The modules listed above.
INNER_OUTPUTS = re.compile(
    r"backbone\.(bn1|blocks\.\d+\.\d+)|fpn\.(resample\.\d+|cell\.\d+\.fnode\.\d+)"
    r"|(class|box)_net\.(bn_rep\.\d+\.\d+|add_rep\.\d+|predict)"
)
# (axes, size of the last one) of wrong images -> what would help.
HINTS = {(4, 3): ": use images.permute(0, 3, 1, 2)", (3, 3): ": use images.permute(2, 0, 1)[None]"}


class EfficientDet(nn.Module):
    """EfficientDet without pre- and postprocessing.

    Args:
        config: what to build.
        drop_path_rate: stochastic depth of the backbone in training. The official training used 0.2 except for b0 (0).

    Attributes:
        config: what was built.
        metadata: where the weights came from; empty unless `load_model` filled it.

    Raises:
        ConfigError: `config.image_size` is too small for the pyramid levels, or `drop_path_rate` is not in 0..1.
        UsageError: `config` is something else.

    Source: EfficientDet (arXiv:1911.09070) figure 3.
    """

    def __init__(self, config: EfficientDetConfig, *, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        require_type(config, EfficientDetConfig, "config", "an EfficientDetConfig, which get_config returns")
        self.config = config
        self.metadata = dict[str, Any]()
        if not 0 <= drop_path_rate < 1:
            raise ConfigError(f"drop_path_rate is {drop_path_rate!r}; expected 0 or more, below 1")
        self.min_level, self.max_level = min(config.feature_sizes()), config.max_level
        self.backbone = Backbone(config.backbone, config.activation, drop_path_rate, config.min_level, config.taps)
        self.fpn = BiFPN(config)
        self.class_net = create_class_head(config)
        self.box_net = create_box_head(config)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Predict classes and boxes for every anchor.

        Args:
            images: (B, 3, H, W), RGB, normalised; any size, not only `config.image_size`.

        Returns:
            class_logits: per level, fine to coarse, (B, anchors * num_classes, H_l, W_l); channel = anchor *
                num_classes + class.
            box_deltas: per level (B, anchors * 4, H_l, W_l); channel = anchor * 4 + coordinate, order (ty, tx, th, tw).

        Raises:
            ConfigError: The images are too small for the pyramid levels.
            UsageError: They are not a tensor of this shape, or hold whole numbers.
        """
        if not is_scripting():  # TorchScript checks arguments itself
            require_images(images)
        feature_sizes(images.shape[2], images.shape[3], self.min_level, self.max_level)
        features = self.fpn(self.backbone(images))
        return self.class_net(features), self.box_net(features)


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


def create_model(
    variant: str,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    drop_path_rate: float = 0.0,
    **overrides: Any,
) -> EfficientDet:
    """Build an untrained EfficientDet, initialised for training from scratch.

    Args:
        variant: see `get_config`.
        num_classes: classes to predict; None takes the variant's (90, COCO).
        image_size: (height, width) in pixels or the side of a square; None takes the variant's.
        drop_path_rate: see `EfficientDet`.
        **overrides: further fields of `EfficientDetConfig`.

    Raises:
        ConfigError: The variant or a field does not exist, or a value does not fit.
    """
    given = {"num_classes": num_classes, "image_size": image_size}
    overrides.update({name: value for name, value in given.items() if value is not None})
    return EfficientDet(get_config(variant, **overrides), drop_path_rate=drop_path_rate)
