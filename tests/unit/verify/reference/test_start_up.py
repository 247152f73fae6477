"""TensorFlow's start: what it prints on a healthy machine is left out, all else is passed on."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from verify.errors import MissingDependencyError
from verify.reference.base import _imported, without_start_up_noise

NOISE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795813905.358395   10280 cudart_stub.cc:31] Could not find cuda drivers on your machine",
    "E0000 00:00:1795813911.850076   10411 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error",
    "E0000 00:00:1795813911.850076   10411 cuda_dnn.cc:8310] Unable to register cuDNN factory: already registered",
)
TROUBLE = (
    "E0000 00:00:1795813911.850076   10411 file_system.cc:10] out of disk space",
    "F0000 00:00:1795813911.850076   10411 cpu_feature_guard.cc:110] compiled to use instructions that are missing",
    "WARNING: a library says something",
    "Traceback (most recent call last):",
)
FILTER = "from verify.reference.base import without_start_up_noise as quiet"
IMPORT = "from verify.reference.base import import_tensorflow; import_tensorflow()"
needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs TensorFlow")


def write(*lines: str) -> None:
    os.write(2, "".join(f"{line}\n" for line in lines).encode())


def test_noise_is_left_out_and_trouble_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with without_start_up_noise():
        write(NOISE[0], TROUBLE[0], *NOISE[1:], *TROUBLE[1:])
    assert capfd.readouterr().err.splitlines() == list(TROUBLE)


def test_nothing_is_left_out_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    """Negative control."""
    with without_start_up_noise():
        pass
    write(*NOISE)
    assert capfd.readouterr().err.splitlines() == list(NOISE)


def fail() -> None:
    with without_start_up_noise():
        write(TROUBLE[0])
        raise ZeroDivisionError


def test_an_error_restores_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        fail()
    write(NOISE[0])
    assert capfd.readouterr().err.splitlines() == [TROUBLE[0], NOISE[0]]


def test_without_tensorflow_the_advice_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name on a package index: the project is on none, and anybody could register it there."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependencyError, match=r"run pip install '\.\[tf\]' in the checkout of effdet-convert$"):
        _imported()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program without the settings of these tests."""
    others = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    words = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(words, env=others | environment, capture_output=True, text=True, timeout=120, check=False)


def test_last_words_before_an_abrupt_end_are_passed_on() -> None:
    done = run(f"import os; {FILTER}\nwith quiet(): os.write(2, {TROUBLE[1].encode()!r} + b'\\n'); os._exit(3)")
    assert (done.returncode, done.stderr) == (3, TROUBLE[1] + "\n")


def test_a_closed_stderr_stays_closed() -> None:
    done = run(f"import os; os.close(2); {FILTER}\nwith quiet(): print('done')")
    assert (done.returncode, done.stdout) == (0, "done\n")


@needs_tensorflow
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="unset", marks=pytest.mark.slow),
        pytest.param({"TF_CPP_MIN_LOG_LEVEL": "0"}, id="set by the user"),
    ],
)
def test_the_level_that_the_user_set_is_respected(environment: dict[str, str]) -> None:
    done = run(IMPORT, **environment)
    assert done.returncode == 0
    assert bool(done.stderr) == bool(environment)


@needs_tensorflow
def test_a_tensorflow_that_is_loaded_keeps_its_level() -> None:
    done = run(f"import os, tensorflow; {IMPORT}; print(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))")
    assert (done.returncode, done.stdout) == (0, "None\n")
