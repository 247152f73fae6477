"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

# Before anything imports TensorFlow: repeatable kernels, no start-up chatter.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# The test processes share the cores; OpenMP threads that wait by spinning would only take them from each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Both bring an LLVM; loaded after TensorFlow's, triton's (of PyTorch) would end the process.
with suppress(ImportError):
    import triton  # noqa: F401

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the golden files of the reports anew."""
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the system's temporary folder lie among the files of the tests, and go with them.

    TensorFlow leaves its generated functions there, and a process that a test kills whatever it was writing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("t", numbered=False)))  # short: sockets lie there
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of official results beside the project."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("no official results beside the project (../shared)")
    return SHARED


@pytest.fixture(scope="session")
def seeded(shared: Path) -> ModuleType:
    """The module that draws the reproducible variables of the golden outputs."""
    spec = importlib.util.spec_from_file_location("seeded_variables", shared / "reference" / "seeded_variables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def effdet() -> ModuleType:
    """The `effdet` package, an oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions while it is imported
        module: ModuleType = pytest.importorskip("effdet", reason="the effdet package (extra `bench`) is not installed")
    return module
