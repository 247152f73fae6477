"""MMDetection imports compiled operations that its light form does not have; a detector like this one uses none."""

from __future__ import annotations

import sys
import types


class NotCompiled(types.ModuleType):
    """Stands for mmcv's compiled module: any operation exists, and none can be called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> None:
            raise RuntimeError(f"mmcv's {name} is not compiled here")

        return missing


sys.modules.setdefault("mmcv._ext", NotCompiled("mmcv._ext"))
