"""`.pte` files with ExecuTorch."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import torch

from effdet_torch.engines.document import read_document
from effdet_torch.engines.file_engine import Array, FileEngine, missing_runtime, quiet, reading, running
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, require_regular


class ExecuTorchEngine(FileEngine):
    """See `FileEngine`; the document is what a method without arguments returns."""

    def __init__(self, path: Path) -> None:
        try:
            with quiet():
                from executorch.runtime import Runtime
        except ImportError as error:
            raise missing_runtime(path, "executorch", "executorch") from error
        self.runtime, self._lock = "ExecuTorch", Lock()
        with reading(path):
            require_regular(path, MAX_MODEL_BYTES)
        with running(path, self.runtime):
            self._program: Any = Runtime.get().load_program(path)  # methods use it as long as they live
            has_document = METADATA_KEY in self._program.method_names
            stored = self._program.load_method(METADATA_KEY).execute([])[0] if has_document else None
            self._forward = self._program.load_method("forward")
        super().__init__(path, read_document(path, stored))

    def _run(self, pixels: Array) -> list[Array]:
        with running(self.path, self.runtime), self._lock:  # every run writes into the same memory
            return [tensor.numpy().copy() for tensor in self._forward.execute([torch.from_numpy(pixels)])]
