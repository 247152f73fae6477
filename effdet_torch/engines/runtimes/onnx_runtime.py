"""`.onnx` files with ONNX Runtime, without torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from effdet_torch.engines.document import INPUT, read_document
from effdet_torch.engines.file_engine import Array, FileEngine, missing_runtime, reading, require_signature, running
from effdet_torch.errors import ModelFileError
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.untrusted.files import map_file

MAX_ONNX_BYTES = (2 << 30) - 1  # more does not fit into a protobuf message
# The key of a tensor's external file: a text of eight letters, its length in front of it in any valid encoding. Files
# of ours have none, and one from a stranger could name any file of the reader's.
EXTERNAL_DATA = re.compile(rb"(?:\x08|\x88\x80*\x00)location")


class OnnxRuntimeEngine(FileEngine):
    """See `FileEngine`; every operator is one of ONNX's own, none comes from a library beside the file."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_runtime(path, "onnxruntime", "onnx") from error
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        content = read_onnx(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal; errors arrive as exceptions
        with running(path, self.runtime):
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            stored = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        super().__init__(path, read_document(path, stored))
        require_signature(path, "inputs", [item.name for item in self._session.get_inputs()], [INPUT])
        require_signature(path, "outputs", [item.name for item in self._session.get_outputs()], self._names)

    def _run(self, pixels: Array) -> list[Array]:
        with running(self.path, self.runtime):
            outputs: list[Array] = self._session.run(None, {INPUT: pixels})
        return outputs


def read_onnx(path: Path) -> bytes:
    """Return the bytes of an ONNX file that needs no other file.

    Raises:
        ModelFileError: It cannot be read, is too large, or refers to external data.
    """
    with reading(path):
        content = bytes(map_file(path, MAX_ONNX_BYTES))
    if EXTERNAL_DATA.search(content):
        raise ModelFileError(
            f"refused to load {path}: its weights are in other files (external data), and it could name any file. "
            "Save it as one file first."
        )
    return content
