"""hubconf.py by torch.hub itself: from a folder, and as GitHub's archive, of which only the download is replaced."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from effdet_torch import save_model
from support.coco_samples import small_model

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("converter", "effdet_torch", "mappings", "verify")
LOCAL = """
import sys, torch
before = set(sys.modules)
for file in ("d0.pth", "d0.safetensors"):
    model = torch.hub.load(REPOSITORY, "tf_efficientdet_d0", source="local", pretrained=file)
    print(model.config.name, model.config.num_classes, model.training)
print(torch.hub.load(REPOSITORY, "effdet", "efficientdet_q0", source="local", num_classes=3).config.num_classes)
import re, tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
needs = tomllib.loads((Path(REPOSITORY) / "pyproject.toml").read_text())["project"]["dependencies"]
needs = {re.match(r"[\\w-]+", need)[0].lower().replace("_", "-") for need in needs}
used = {name.partition(".")[0] for name in set(sys.modules) - before} | {"torch"}
print(sorted(n for n in used if {d.lower().replace("_", "-") for d in packages_distributions().get(n, ())} & needs))
hubconf = torch.hub._import_module("hubconf", Path(REPOSITORY) / "hubconf.py")
print(sorted(hubconf.dependencies))
print(Path(sys.modules["effdet_torch"].__file__).parents[1] == Path(REPOSITORY))
"""
GITHUB = """
import shutil, torch
torch.hub.set_dir("hub")
torch.hub.download_url_to_file = lambda url, path, progress: print(url, shutil.copy("archive.zip", path)[:0])
known = {"trust_repo": True, "skip_validation": True}
print(*torch.hub.list("someone/effdet-convert:main", **known))
print(torch.hub.help("someone/effdet-convert:main", "d0", **known))
print(torch.hub.load("someone/effdet-convert:main", "d0", num_classes=3, verbose=False, **known).config.num_classes)
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which does not find the packages by the current folder."""
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P and tomllib are of 3.11")
def test_from_a_folder(tmp_path: Path) -> None:
    for name in ("d0.pth", "d0.safetensors"):
        save_model(small_model(), tmp_path / name)
    done = python(LOCAL.replace("REPOSITORY", repr(str(ROOT))), tmp_path)
    assert done.returncode == 0, done.stderr
    *models, other, used, dependencies, is_here = done.stdout.splitlines()
    assert models == ["d0 2 False"] * 2
    assert other == "3"
    assert used == dependencies  # what it needs of the project's dependencies, no more
    assert is_here == "True"


@pytest.mark.slow
def test_a_missing_dependency_is_told(tmp_path: Path) -> None:
    text = (ROOT / "hubconf.py").read_text(encoding="utf-8")
    (tmp_path / "hubconf.py").write_text(text.replace('"safetensors"', '"no_such_package"'))
    done = python("import torch; torch.hub.load('.', 'd0', source='local')", tmp_path)
    assert "Missing dependencies: no_such_package" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is of 3.11")
def test_from_github(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("effdet-convert-main/", "")
        for path in (ROOT / "hubconf.py", *(p for name in PACKAGES for p in (ROOT / name).rglob("*.*"))):
            if path.is_file() and path.suffix != ".pyc":
                archive.write(path, f"effdet-convert-main/{path.relative_to(ROOT)}")
    done = python(GITHUB, tmp_path)
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()[2]
    assert "https://github.com/someone/effdet-convert/zipball/main" in done.stdout
    assert {"effdet", "d0", "d7x", "lite0", "tf_efficientdet_d0", "tf_efficientdet_lite4", "efficientdet_q0"} <= set(
        names.split()
    )
    assert not {name for name in names.split() if name.startswith(("_", "annotations", "Callable", "Any"))}
    assert "settings are those of `effdet_torch.create_model`" in done.stdout
    assert done.stdout.split()[-1] == "3"
