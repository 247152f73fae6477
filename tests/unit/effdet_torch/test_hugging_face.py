"""Names of models on the Hugging Face Hub: what they load, and how each failure is told; against a local hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from effdet_torch import load_model, save_model
from effdet_torch.errors import ModelFileError, UsageError
from effdet_torch.hugging_face import PREFIX, local_file
from support.coco_samples import small_model, write_coco
from support.commands import script
from support.hugging_face import Hub, environment, in_process, local_hub

ERRORS = """
import json
from effdet_torch import Predictor, create_model, load_model
from effdet_torch.errors import EffdetError
found = {}
for name in NAMES:
    try:
        found[name] = load_model(name).config.name
    except EffdetError as error:
        found[name] = f"{type(error).__name__}: {error}"
found["create"] = create_model("tf_efficientdet_d0", pretrained="hf:user/mine").config.num_classes
found["predictor"] = Predictor("hf:user/mine.onnx@v1.0").config.num_classes
print(json.dumps(found))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub that has one model, under any name."""
    save_model(small_model(num_classes=7), tmp_path / "model.safetensors")
    with local_hub() as endpoint:
        Hub.files["model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
        yield endpoint


def test_a_name_loads_the_model_and_each_failure_is_told(hub: str, tmp_path: Path) -> None:
    names = ["hf:user/mine", "hf:user/gated", "hf:user/missing", "hf:user/mine@no-such-revision", "hf:../x", "hf:user"]
    done = in_process(ERRORS.replace("NAMES", repr(names)), tmp_path, hub)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["hf:user/mine"] == "d0"
    assert (found["create"], found["predictor"]) == (7, 7)
    assert found["hf:user/gated"].startswith("ModelFileError: hf:user/gated is gated: accept its terms")
    assert found["hf:user/missing"].startswith("ModelFileError: hf:user/missing does not exist, or is private")
    assert "@no-such-revision has no such revision" in found["hf:user/mine@no-such-revision"]
    assert found["hf:user"].startswith("UsageError: hf:user does not name a model on the Hub; expected hf:user/")
    assert found["hf:../x"].startswith(("UsageError: hf:../x", "ModelFileError: hf:../x cannot be downloaded: "))


def test_a_repository_without_a_model_and_a_model_of_another_tool(hub: str, tmp_path: Path) -> None:
    from safetensors.torch import save

    code = "from effdet_torch import load_model; load_model('hf:user/mine')"
    Hub.files["model.safetensors"] = save({"a": torch.zeros(1)})
    assert "was not written by effdet-convert" in in_process(code, tmp_path, hub).stderr
    del Hub.files["model.safetensors"]
    assert "hf:user/other has no model.safetensors" in in_process(code.replace("mine", "other"), tmp_path, hub).stderr


def test_no_network(tmp_path: Path) -> None:
    code = "from effdet_torch import load_model; load_model('hf:user/mine')"
    done = in_process(code, tmp_path, "http://127.0.0.1:9")
    assert "ModelFileError: hf:user/mine cannot be reached, and is not in the cache" in done.stderr


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
