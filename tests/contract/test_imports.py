"""Who may import whom, and what start-up may not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "tensorflow", "tf_keras", "keras", "timm", "h5py", "effdet", "matplotlib", "PIL"}
OURS = ("cli", "verify", "converter", "effdet_torch", "mappings", "benchmarks", "tests")
GROUND = ("config", "architecture", "atomic", "errors", "file_format", "terminal")
CORE_OF_THE_MODEL = {"effdet_torch", *(f"effdet_torch.{name}" for name in GROUND)}


# What a file imports, wherever in the file.


def imported(source: str) -> Iterator[str]:
    """Yield the modules that a file imports: by statement at any depth, and by name through importlib."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield str(node.module)
            # `from package import module` names a module, too.
            yield from (
                f"{node.module}.{alias.name}" for alias in node.names if is_module(f"{node.module}.{alias.name}")
            )
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def top(module: str) -> str:
    return module.split(".")[0]


def may_import(file: str, module: str) -> bool:
    """Whether the rules of the house allow a file (relative to the project) to import a module."""
    package, name = file.split("/")[0].removesuffix(".py"), top(module)
    if name in ("tensorflow", "tf_keras", "keras"):
        return file.startswith("verify/reference/")
    if name == "h5py":
        return file.startswith(("converter/readers/", "converter/writers/"))
    if name in ("effdet", "benchmarks", "tests", "cli"):
        return False
    if name in ("torch", "timm", "torchvision"):
        return package in ("effdet_torch", "verify", "cli")
    if package == "effdet_torch":
        return name not in ("verify", "converter", "mappings")
    if package == "converter":
        return name != "verify" and (name != "effdet_torch" or module in CORE_OF_THE_MODEL)
    return package != "mappings"


def files() -> list[str]:
    paths = [path for package in OURS[1:5] for path in (ROOT / package).rglob("*.py")]
    return [path.relative_to(ROOT).as_posix() for path in sorted([ROOT / "cli.py", *paths])]


@pytest.mark.parametrize("file", files())
def test_imports_follow_the_rules(file: str) -> None:
    modules = set(imported((ROOT / file).read_text(encoding="utf-8")))
    assert [module for module in sorted(modules) if not may_import(file, module)] == []


def test_all_packages_are_looked_at() -> None:
    assert {top(file.split("/")[0].removesuffix(".py")) for file in files()} == set(OURS[:5])
    assert len(files()) > 40


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("converter/plan/ops.py", "import torch"),
        ("converter/plan/ops.py", "def f():\n    from torch import nn"),
        ("converter/plan/ops.py", "import importlib\nimportlib.import_module('tensorflow')"),
        ("converter/plan/ops.py", "__import__('tensorflow.io')"),
        ("converter/plan/ops.py", "import h5py"),
        ("converter/plan/ops.py", "from effdet_torch.network.model import EfficientDet"),
        ("converter/plan/ops.py", "from effdet_torch import network"),
        ("converter/plan/ops.py", "import verify.layers.parity"),
        ("effdet_torch/network/bifpn.py", "from converter.plan.ops import OPS"),
        ("effdet_torch/network/bifpn.py", "if TYPE_CHECKING:\n    import verify"),
        ("effdet_torch/network/bifpn.py", "import effdet"),
        ("verify/layers/parity.py", "import tensorflow as tf"),
        ("verify/layers/parity.py", "import cli"),
        ("cli.py", "import tensorflow"),
        ("mappings/__init__.py", "import converter"),
    ],
)
def test_every_broken_rule_is_found(file: str, source: str) -> None:
    """Negative control: the same check on files that break the rules."""
    assert [module for module in imported(source) if not may_import(file, module)]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("verify/reference/keras.py", "import tensorflow"),
        ("converter/readers/tensorflow/keras_h5.py", "import h5py"),
        (
            "converter/plan/ops.py",
            "import numpy\nfrom effdet_torch import __version__\nfrom effdet_torch.config import get_config",
        ),
        (
            "verify/layers/parity.py",
            "import torch\nimport converter.plan.engine\nfrom effdet_torch import create_model",
        ),
        ("cli.py", "from verify.layers.parity import compare"),
    ],
)
def test_what_is_allowed_is_not_found(file: str, source: str) -> None:
    assert not [module for module in imported(source) if not may_import(file, module)]


def test_relative_imports_are_refused() -> None:
    with pytest.raises(AssertionError, match="relative import"):
        list(imported("from . import ops"))


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
