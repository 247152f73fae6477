"""The file `checkpoint` of a folder, which names the newest checkpoint in it.

Source: TensorFlow's `checkpoint_state.proto`.
"""

from __future__ import annotations

from pathlib import Path

from effdet_torch.untrusted.files import read_bytes
from effdet_torch.untrusted.text_proto import parse_text_proto

MAX_STATE_BYTES = 16 << 20  # 100 bytes for each checkpoint that was kept


def read_state(state: Path) -> str:
    """Return `model_checkpoint_path` of a CheckpointState as text.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not such a message, or names no checkpoint, or several.
    """
    fields = parse_text_proto(read_bytes(state, MAX_STATE_BYTES).decode(errors="surrogateescape"))
    paths = fields.get("model_checkpoint_path", [])
    if len(paths) != 1 or not isinstance(paths[0], str) or not paths[0]:
        raise ValueError(f"it names {len(paths)} checkpoints as the newest")
    return paths[0]
