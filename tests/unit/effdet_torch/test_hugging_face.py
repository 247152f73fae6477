"""Names of models on the Hugging Face Hub: what they load, and how each failure is told; against a local hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from effdet_torch import load_model, save_model
from effdet_torch.errors import ModelFileError, UsageError
from effdet_torch.hugging_face import PREFIX, local_file
from support.coco_samples import small_model, write_coco
from support.commands import script
from support.hugging_face import Hub, environment, in_process, local_hub

ERRORS = """
import json
from effdet_torch.errors import EffdetError
from effdet_torch.hugging_face import local_file
found = {}
for name in NAMES:
    try:
        found[name] = local_file(name).name
    except EffdetError as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
MODELS = """
from effdet_torch import Predictor, create_model, load_model
print(load_model("hf:user/mine").config.num_classes)
print(create_model("tf_efficientdet_d0", pretrained="hf:user/mine").config.num_classes)
print(Predictor("hf:user/mine.onnx@v1.0").config.num_classes)
"""


def told(names: list[str], folder: Path, endpoint: str, **variables: str) -> dict[str, str]:
    """Return the names of the files that names of models lead to, or what is told instead."""
    done = in_process(ERRORS.replace("NAMES", repr(names)), folder, endpoint, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub that has one model, under any name."""
    save_model(small_model(num_classes=7), tmp_path / "model.safetensors")
    with local_hub() as endpoint:
        Hub.files["model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
        yield endpoint


def test_a_name_loads_the_model(hub: str, tmp_path: Path) -> None:
    done = in_process(MODELS, tmp_path, hub)
    assert done.stdout.split() == ["7"] * 3, done.stderr


FAILURES = {
    "hf:user/gated": "ModelFileError: hf:user/gated is gated: accept its terms on its page, then log in",
    "hf:user/missing": "ModelFileError: hf:user/missing does not exist, or is private: check the name",
    "hf:user/empty": "ModelFileError: hf:user/empty has no model.safetensors, which effdet_torch.integrations",
    "hf:user/mine@no-such-revision": "ModelFileError: hf:user/mine@no-such-revision has no such revision: name",
    "hf:user/..": "ModelFileError: hf:user/.. cannot be downloaded: Repo id must use",
}


def test_each_failure_is_told(hub: str, tmp_path: Path) -> None:
    found = told(["hf:user/mine", *FAILURES], tmp_path, hub)
    assert found.pop("hf:user/mine") == "model.safetensors"
    assert {name: text[: len(FAILURES[name])] for name, text in found.items()} == FAILURES
    offline = told(["hf:user/mine", "hf:user/other"], tmp_path, hub, HF_HUB_OFFLINE="1")
    assert offline["hf:user/mine"] == "model.safetensors"  # it is in the cache
    assert "hf:user/other cannot be reached, and is not in the cache" in offline["hf:user/other"]


@pytest.mark.slow
def test_no_network(tmp_path: Path) -> None:
    """huggingface_hub tries again for half a minute."""
    (text,) = told(["hf:user/mine"], tmp_path, "http://127.0.0.1:9").values()
    assert "hf:user/mine cannot be reached, and is not in the cache" in text


def test_what_is_not_such_a_name_is_a_path() -> None:
    assert local_file("d0.pth") == local_file(Path("d0.pth")) == Path("d0.pth")
    assert local_file(f"./{PREFIX}user/x") == Path("./hf:user/x")
    for text in ("hf:", "hf:a", "hf:a/b/c", "hf:a/b@", "hf:/b", "hf:a/b@c d", "hf:a b/c"):
        with pytest.raises(UsageError, match="expected hf:user/repository"):
            local_file(text)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelFileError, match=r"needs huggingface_hub; run pip install '\.\[huggingface\]'"):
        load_model("hf:user/mine")


COMMANDS = {
    "detect": ["effdet-detect", "hf:user/mine", "val2017", "--json", "found.json", "--score", "0"],
    "export": ["effdet-export", "hf:user/mine", "out.torchscript"],
    "verify": ["effdet-verify", "hf:user/mine@main", "--coco", ".", "--limit", "2"],
    "train": ["effdet-train", ".", "--from", "hf:user/mine", "--out", "run", "--check-data"],
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "detect")) for n in COMMANDS])
def test_every_command_takes_such_a_name(hub: str, tmp_path: Path, name: str) -> None:
    write_coco(tmp_path)
    write_coco(tmp_path, split="train2017")
    command, *words = COMMANDS[name]
    place = {"cwd": tmp_path, "env": environment(tmp_path, hub)}
    done = subprocess.run([script(command), *words], **place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = [word.replace("mine", "missing") for word in words]  # negative control
    done = subprocess.run([script(command), *words], **place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Error: hf:user/missing" in done.stderr
