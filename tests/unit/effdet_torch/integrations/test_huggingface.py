"""Push and pull with huggingface_hub, against a hub on this machine; what the card says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effdet_torch import load_model, save_model
from effdet_torch.errors import ModelFileError, UsageError
from effdet_torch.integrations.huggingface import NOT_CHECKED, HubModel
from support.coco_samples import small_model
from support.hugging_face import Hub, local_hub

REPORT = {
    "verdict": "PASS",
    "claim": {"text": "config.yaml"},
    "layers": [{"passed": True}, {"passed": False}],
    "detection": {"metrics": {"AP": 0.343, "AP50": 0.5}},
}


def in_process(code: str, folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: huggingface_hub reads the address when it is imported."""
    names = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test", "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=folder, env=os.environ | names, capture_output=True, text=True, check=False)


def test_what_was_pushed_comes_back(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "model.pth")
    push = (
        "from effdet_torch import load_model\nfrom effdet_torch.integrations.huggingface import HubModel\n"
        "HubModel.of(load_model('model.pth')).push_to_hub('user/mine')"
    )
    pull = (
        "from effdet_torch import save_model\nfrom effdet_torch.integrations.huggingface import HubModel\n"
        "save_model(HubModel.from_pretrained('user/mine'), 'back.pth')"
    )
    with local_hub() as endpoint:
        done = in_process(push, tmp_path, endpoint)
        assert done.returncode == 0, done.stderr
        assert set(Hub.files) == {"model.safetensors", "config.json", "README.md"}
        assert Hub.tokens == {"Bearer hf_test"}
        done = in_process(pull, tmp_path, endpoint)
        assert done.returncode == 0, done.stderr
        damaged = bytearray(Hub.files["model.safetensors"])
        damaged[-1] ^= 1
        Hub.files["model.safetensors"] = bytes(damaged[:-8])  # negative control: cut
        assert "ModelFileError" in in_process(pull.replace("mine'", "other'"), tmp_path, endpoint).stderr
    one, other = load_model(tmp_path / "model.pth"), load_model(tmp_path / "back.pth")
    assert one.config == other.config
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


def test_a_folder_is_what_every_command_takes(tmp_path: Path) -> None:
    model = small_model()
    HubModel.of(model).save_pretrained(tmp_path / "repo")
    assert load_model(tmp_path / "repo" / "model.safetensors").config == model.config
    again = HubModel.from_pretrained(str(tmp_path / "repo"))
    assert isinstance(again, HubModel)
    assert not again.training
    (tmp_path / "repo" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelFileError):
        HubModel.from_pretrained(str(tmp_path / "repo"))


def test_tensors_are_shared_not_copied() -> None:
    model = small_model().train()
    hub = HubModel.of(model)
    assert hub.training
    assert all(a is b for a, b in zip(model.parameters(), hub.parameters(), strict=True))
    with pytest.raises(UsageError, match="model is"):
        HubModel.of(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    hub = HubModel.of(small_model(label_map=((1, "cat"), (2, "dog"))))
    plain = str(hub.generate_model_card())
    assert NOT_CHECKED in plain
    assert "license" not in plain
    assert "cat, dog" in plain
    assert "not on record" in plain
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    card = hub.generate_model_card(report=tmp_path / "report.json", licence="apache-2.0", repo_id="user/mine")
    assert "1 of 2 comparisons of layers with TensorFlow agree" in str(card)
    assert "PASS, rests on config.yaml" in str(card)
    assert 'from_pretrained("user/mine")' in str(card)
    assert card.data.license == "apache-2.0"
    assert [(row.metric_type, row.metric_value) for row in card.data.eval_results] == [("AP", 34.3), ("AP50", 50.0)]


@pytest.mark.parametrize("text", ["[]", "{", '{"verdict": "PASS"}'])
def test_what_is_no_report(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match=r"report\.json"):
        HubModel.of(small_model()).generate_model_card(report=tmp_path / "report.json")
