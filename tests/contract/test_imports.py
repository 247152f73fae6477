"""Who may import whom (the contracts in pyproject.toml), and what start-up may not load."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmarks", "converter", "effdet_torch", "mappings", "verify")
HEAVY = {"torch", "tensorflow", "tf_keras", "keras", "timm", "h5py", "effdet", "matplotlib", "PIL", "requests"}


def broken_contracts(folder: Path) -> str:
    """Check the contracts on the packages of a folder; "" if all are kept, else what breaks them."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_contracts_are_kept() -> None:
    assert broken_contracts(ROOT) == ""


@pytest.mark.parametrize(
    ("file", "line", "breaks"),
    [
        ("converter/plan/ops.py", "import torch", "works without torch"),
        ("converter/plan/ops.py", "def f():\n    from verify.layers import pairs", "packages: the proof is above"),
        ("converter/plan/ops.py", "from converter.identify import settings", "the listing is the data path"),
        ("converter/plan/ops.py", "from effdet_torch.geometry import boxes", "knows the ground only"),
        ("converter/plan/ops.py", "from converter.plan import expand", "no circle between files or folders"),
        ("effdet_torch/network/model.py", "from effdet_torch.inference import predict", "from the commands down"),
        ("effdet_torch/network/model.py", "import converter.plan.ops", "the model knows nothing of conversion"),
        ("effdet_torch/untrusted/text.py", "from effdet_torch import errors", "from the commands down"),
        ("effdet_torch/data/clean.py", "import torch", "data sets are read without torch"),
        ("verify/layers/parity.py", "import tensorflow as tf", "TensorFlow runs the reference"),
        ("effdet_torch/processing/sampling.py", "import torch", "the CPU path works without torch"),
        ("effdet_torch/network/layers.py", "import torchvision", "torchvision is an oracle"),
        ("effdet_torch/network/layers.py", "from timm.layers import DropPath", "timm is an oracle"),
        ("verify/reference/official/hparams.py", "import converter.plan.ops", "the reference reads and"),
        ("verify/report/content/text.py", "from verify.layers import measures", "reports know results only"),
        ("converter/new_file.py", "", "the listing is the data path"),
    ],
)
def test_a_broken_contract_is_named(tmp_path: Path, file: str, line: str, breaks: str) -> None:
    """Negative control: the same check on a copy with one import, or one file without a place, added."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    report = broken_contracts(tmp_path)
    assert any(breaks in name and "BROKEN" in name for name in report.replace("\n", " ").split("KEPT"))


def test_imports_by_name_are_left_to_the_lazy_names() -> None:
    """An import by its name in a string would be invisible to the contracts."""
    files = [ROOT / "cli.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    users = [
        path.relative_to(ROOT).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "importlib" for alias in node.names))
        or (isinstance(node, ast.Name) and node.id == "__import__")
    ]
    assert users == ["effdet_torch/__init__.py"]


# What a fresh interpreter has loaded afterwards.


def loaded_by(statement: str, cwd: Path, path: Path | None = None) -> set[str]:
    """Return the heavy modules that a statement loads in an interpreter of its own."""
    code = f"import sys\n{statement}\nprint(*{HEAVY!r} & set(sys.modules))"
    extra = {} if path is None else {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | extra, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder of modules with heavy names and nothing in them."""
    folder = tmp_path / "stand_ins"
    folder.mkdir()
    for name in HEAVY:
        (folder / f"{name}.py").touch()
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        "import converter.conversion",
        "import converter.inspection, converter.report",
        "import cli",
        "import effdet_torch.config",
        "import effdet_torch",
        "import converter.locate",
    ],
)
def test_starting_loads_nothing_heavy(tmp_path: Path, statement: str) -> None:
    assert loaded_by(statement, tmp_path) == set()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import torch", {"torch"}),
        ("import cli, tensorflow", {"tensorflow"}),
        ("import effdet_torch\neffdet_torch.config\nimport h5py, keras", {"h5py", "keras"}),
    ],
)
def test_a_heavy_import_is_seen(tmp_path: Path, stand_ins: Path, statement: str, found: set[str]) -> None:
    """Negative control: with stand-ins, because the real ones take seconds."""
    assert loaded_by(statement, tmp_path, stand_ins) == found


def test_torch_is_loaded_when_a_model_is_asked_for(tmp_path: Path, stand_ins: Path) -> None:
    """Negative control: behind the lazy names of `effdet_torch` there is torch, here a stand-in without `Tensor`."""
    code = "import effdet_torch\ntry:\n    effdet_torch.EfficientDet\nexcept ImportError:\n    pass"
    assert "torch" in loaded_by(code, tmp_path, stand_ins)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import effdet_torch

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        effdet_torch.nothing  # noqa: B018
