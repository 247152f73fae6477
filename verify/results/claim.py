"""What a verdict rests on: how the architecture and the settings of a converted file are known.

A comparison with a reference that was built from the file's own settings proves the weights; the settings themselves
rest on TensorFlow's own graph, on what somebody stated, or on an assumption.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from effdet_torch.file_format import GRAPH, SAVED, assumed_briefly, config_origins

ClaimKind = Literal["graph ran", "graph read", "config", "assumed", "not recorded"]
Requirement = Literal["graph", "config"]

# --require -> the kinds that satisfy it.
SATISFYING: Mapping[Requirement, tuple[ClaimKind, ...]] = {
    "graph": ("graph ran", "graph read"),
    "config": ("graph ran", "graph read", "config"),
}
# How an origin in a file's metadata begins -> what the claim says of it; strongest first. {} is the origin itself.
EVIDENCE: Mapping[str, tuple[ClaimKind, str]] = {
    GRAPH: ("graph read", "TensorFlow's own {}, which was read"),
    "config.yaml": ("config", "{}"),
    "pipeline.config": ("config", "{}"),
    "the file's": ("config", "{}"),
    "--hparams": ("config", "settings stated by {}"),
    "the official": ("config", "{}"),
    "table of official files": ("config", "an official file"),
    "the training of effdet": ("config", "{}"),
    "the config of the pickled": ("config", "{}"),
    "its metadata": ("config", "the metadata of its source"),
    "the TF Object Detection API": ("config", "what {} fixes in its code"),
    "names and shapes": ("config", "names and shapes of the variables"),
    SAVED: ("config", "the settings of the saved model"),
}
ALWAYS = "names and shapes"  # an origin that goes without saying beside another one
# Fields of the config that say what the network computes, and that names and shapes do not show.
NETWORK = ("activation", "fusion", "fpn_name", "fpn_config", "survival_prob", "conv_after_downsample", "taps")
# What the outputs of a network do not show.
UNSEEN = (
    "image_size",
    "mean_rgb",
    "stddev_rgb",
    "scale_range",
    "anchor_scale",
    "aspect_ratios",
    "num_scales",
    "nms_configs",
    "label_map",
)


@dataclass(frozen=True)
class Claim:
    """What a verdict rests on.

    Attributes:
        kind: strongest first: TensorFlow's own graph ran; it was read; the settings were stated (`config.yaml`,
            `--hparams`, an official file); some are assumed; the file does not say.
        text: continues "rests on".
    """

    kind: ClaimKind
    text: str

    def satisfies(self, required: Requirement | None) -> bool:
        """Whether it is as strong as `--require` asks for."""
        return required is None or self.kind in SATISFYING[required]


def claim_of(metadata: Mapping[str, Any], ran: str | None = None) -> Claim:
    """Return what a verdict on a converted file rests on.

    Args:
        metadata: of the file: `config_origins` {field: origin} and `assumed` {official hyperparameter: value}.
        ran: name of the file with TensorFlow's own graph, if that ran and agreed.
    """
    assumed = metadata.get("assumed")
    is_recorded = isinstance(assumed, Mapping)
    values = dict(assumed) if isinstance(assumed, Mapping) else {}
    if ran is not None:
        unseen = [name for name in values if name in UNSEEN]
        but = f", and on assumptions about {assumed_briefly(unseen)}, which its outputs do not show" if unseen else ""
        return Claim("graph ran", f"TensorFlow's own graph ({ran}), which ran{but}")
    if values:
        return Claim("assumed", f"assumptions about {assumed_briefly(values)}")
    origins = config_origins(metadata)
    unknown = [origin for origin in origins.values() if not origin.startswith(tuple(EVIDENCE))]
    found = list(_evidence(origins.values()))
    if not is_recorded or not found or unknown:
        return Claim("not recorded", "settings of unknown origin: the file was written before evidence was recorded")
    # As weak as the weakest part of the network; what surrounds it, no graph shows.
    network = list(_evidence(origin for field, origin in origins.items() if field in NETWORK)) or found
    return Claim(network[-1][0], ", and ".join(dict.fromkeys(text for _, text in found)))


def _evidence(origins: Iterable[Any]) -> Iterator[tuple[ClaimKind, str]]:
    """Yield kind and description of every origin, strongest first."""
    found = set(map(str, origins))
    if len(found) > 1:
        found.discard(ALWAYS)
    for beginning, (kind, text) in EVIDENCE.items():
        for origin in sorted(found):
            if origin.startswith(beginning):
                yield kind, text.format(origin)
