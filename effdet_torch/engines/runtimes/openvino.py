"""`.xml` and `.bin` files with OpenVINO, without torch."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from threading import Lock
from typing import Any

from effdet_torch.engines.document import INPUT, read_document
from effdet_torch.engines.file_engine import Array, FileEngine, missing_runtime, reading, require_signature, running
from effdet_torch.errors import ModelFileError
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, map_file, read_bytes

MAX_GRAPH_BYTES = 256 << 20  # the .xml of D7x has 4 MB
WEIGHTS_CHECKSUM = "effdet_weights_crc32"  # of the .bin: two files can be mixed up, and shapes do not show it
STATED = re.compile(rb'<%s value="(\w*)"' % WEIGHTS_CHECKSUM.encode())  # quotes and < within a value are escaped
COPY_BOTH = "Copy both files, or export the model again with effdet-export."
# By default a CPU that has bfloat16 computes in it.
FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoEngine(FileEngine):
    """See `FileEngine`; arithmetic is float32 whatever the processor prefers."""

    def __init__(self, path: Path) -> None:
        try:
            import openvino
        except ImportError as error:
            raise missing_runtime(path, "openvino", "openvino") from error
        self.runtime = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        weights, checksum = path.with_suffix(".bin"), matching_checksum(path)
        core = openvino.Core()
        with running(path, self.runtime):
            model = core.read_model(path, weights)
            stored = {
                key: model.get_rt_info([key]).value
                for key in (METADATA_KEY, WEIGHTS_CHECKSUM)
                if model.has_rt_info([key])
            }
        super().__init__(path, read_document(path, stored.get(METADATA_KEY)))
        if stored.get(WEIGHTS_CHECKSUM) != checksum:
            raise _mixed_up(path)
        require_signature(path, "inputs", [item.get_any_name() for item in model.inputs], [INPUT])
        require_signature(path, "outputs", [item.get_any_name() for item in model.outputs], self._names)
        with running(path, self.runtime):
            self._compiled: Any = core.compile_model(model, "CPU", FULL_PRECISION)
        self._lock = Lock()  # there is one request, which refuses a second thread

    def _run(self, pixels: Array) -> list[Array]:
        with running(self.path, self.runtime), self._lock:
            found = self._compiled({INPUT: pixels})
        return [found[name] for name in self._names]


def matching_checksum(path: Path) -> str:
    """Return the checksum of the weights of a `.xml`, before OpenVINO opens them: it fails on others without a reason.

    Raises:
        ModelFileError: A file cannot be read, or the `.xml` states another checksum.
    """
    weights = path.with_suffix(".bin")
    with reading(path):
        stated = STATED.findall(read_bytes(path, MAX_GRAPH_BYTES))
    with reading(weights):
        try:
            checksum = weights_checksum(map_file(weights, MAX_MODEL_BYTES))
        except FileNotFoundError as error:
            raise ModelFileError(f"{weights} is missing, which holds the weights of {path}. {COPY_BOTH}") from error
    if stated and stated[-1].decode() != checksum:
        raise _mixed_up(path)
    return checksum


def _mixed_up(path: Path) -> ModelFileError:
    return ModelFileError(f"{path.with_suffix('.bin')} is damaged, or does not belong to {path}. {COPY_BOTH}")


def weights_checksum(content: memoryview | bytes) -> str:
    """Return the CRC-32 of a `.bin`, 8 hexadecimal digits."""
    return f"{zlib.crc32(content):08x}"
