"""A run folder: which files it holds, and when they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effdet_torch.errors import OutputError
from effdet_torch.outputs.atomic import replacing
from effdet_torch.train.run.curves import curves_png
from effdet_torch.train.run.events import open_events
from effdet_torch.train.run.page import PICTURES, to_html
from effdet_torch.train.run.results import EpochResult, Results, read_results, to_csv, to_json
from effdet_torch.train.run.settings import SETTINGS, read_settings, to_yaml
from effdet_torch.untrusted.files import MAX_IMAGE_BYTES, read_bytes

RESULTS = "results.json"
PAGE = "report.html"
# What is written after every epoch, the results first: everything else can be made from them again.
AFTER_EPOCH: Mapping[str, Callable[[Results], bytes]] = {
    RESULTS: to_json,
    "results.csv": to_csv,
    "curves.png": curves_png,
}


class RunFolder:
    """Writes what a run folder holds, apart from the models and the state; only the process of rank 0 has one.

    Args:
        path: the folder; it is created if it does not exist.
        settings: of `settings_of`.
        resume: continue the results that are there.
        tensorboard: see `open_events`.
        first_step: of a resumed run: the updates that its state had done.

    Raises:
        OutputError: The folder cannot be created, or a file in it cannot be written.
        EffdetError: The results of the run that is resumed are damaged.
        ConfigError: TensorBoard is wanted, but not installed.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        tensorboard: bool = False,
        first_step: int = 0,
    ) -> None:
        self.path, self.settings = path, dict(settings)
        self.results = self._earlier() if resume else Results()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be created: {error.strerror}; choose another --out") from error
        self._events = open_events(path, tensorboard, first_step)
        self.write(SETTINGS, to_yaml(self.settings))

    def note(self, text: str) -> None:
        """Add a sentence to the page and to the results, which are written after the epoch."""
        self.results = self.results.noting(text)

    def write(self, name: str, content: bytes) -> None:
        """Write a file completely or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        with replacing(self.path / name) as stream:
            stream.write(content)

    def record(self, result: EpochResult) -> None:
        """Add an epoch, and write everything that shows it.

        Raises:
            OutputError: A file cannot be written.
        """
        self.results = self.results.adding(result)
        for name, content in AFTER_EPOCH.items():
            self.write(name, content(self.results))
        pictures = {
            name: read_bytes(self.path / name, MAX_IMAGE_BYTES) for name in PICTURES if (self.path / name).is_file()
        }
        self.write(PAGE, to_html(self.path.absolute().name, self.results, self.settings, pictures).encode())
        self._events(result)

    def _earlier(self) -> Results:
        """Return the results of the run that is resumed; none if it was interrupted in its first epoch."""
        read_settings(self.path)  # refuses a folder that is not that of a run
        path = self.path / RESULTS
        return read_results(path) if path.exists() else Results()
