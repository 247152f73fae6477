"""Push and pull with huggingface_hub, against a hub on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effdet_torch import get_config, load_model, save_model
from effdet_torch.errors import ModelFileError, OverwriteError, UsageError
from effdet_torch.integrations.huggingface import HubModel
from support.coco_samples import small_model
from support.hugging_face import Hub, in_process, local_hub


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
        assert b"effdet-detect hf:user/mine photo.jpg" in Hub.files["README.md"]
        assert b"license: unknown" in Hub.files["README.md"]
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


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"num_classes": 5}, "from_pretrained has no option 'num_classes'.*create_model"),
        ({"image_size": 64}, "from_pretrained has no option 'image_size'"),
        ({"config": {"num_classes": 5}}, "config.json of .* has another num_classes than model.safetensors"),
        ({"config": get_config("d0")}, "config is of type EfficientDetConfig"),
    ],
)
def test_options_that_would_have_no_effect(tmp_path: Path, option: dict[str, Any], expected: str) -> None:
    HubModel.of(small_model()).save_pretrained(tmp_path)
    assert HubModel.from_pretrained(str(tmp_path), force_download=True)
    with pytest.raises(UsageError, match=expected):
        HubModel.from_pretrained(str(tmp_path), **option)


def test_a_config_of_another_model(tmp_path: Path) -> None:
    HubModel.of(small_model()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "efficientdet", "activation": "relu"}')
    with pytest.raises(UsageError, match="another activation than"):
        HubModel.from_pretrained(str(tmp_path))


def test_nothing_is_written_beside_another_card(tmp_path: Path) -> None:
    HubModel.of(small_model()).save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = HubModel.of(small_model(seed=1))
    with pytest.raises(OverwriteError, match=r"README\.md may describe another model"):
        other.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="pass that file as well"):
        other.save_pretrained(tmp_path / "new", model_card_kwargs={"reports": ["report.json"]})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tensors_are_shared_not_copied() -> None:
    model = small_model().train()
    hub = HubModel.of(model)
    assert hub.training
    assert all(a is b for a, b in zip(model.parameters(), hub.parameters(), strict=True))
    with pytest.raises(UsageError, match="model is"):
        HubModel.of(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_a_device_is_where_the_model_goes(tmp_path: Path) -> None:
    HubModel.of(small_model()).save_pretrained(tmp_path)
    model = HubModel.from_pretrained(str(tmp_path), map_location="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_card_is_made_once_and_before_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], HubModel.generate_model_card
    monkeypatch.setattr(HubModel, "generate_model_card", lambda *args, **told: made.append(told) or make(*args, **told))
    HubModel.of(small_model()).save_pretrained(tmp_path / "repo", model_card_kwargs={"license": "mit"})
    assert made == [{"license": "mit"}]
    assert "license: mit" in (tmp_path / "repo" / "README.md").read_text()
    broken = HubModel.of(small_model())
    broken.fpn = torch.nn.Identity()
    with pytest.raises(UsageError, match="the model was changed since it was built"):
        broken.save_pretrained(tmp_path / "broken")
    assert list((tmp_path / "broken").iterdir()) == []
