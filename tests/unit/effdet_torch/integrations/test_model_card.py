"""What the card of a model says, and which reports it does not take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet_torch import create_model, load_model, save_model
from effdet_torch.errors import UsageError
from effdet_torch.file_format import sha256
from effdet_torch.integrations.huggingface import HubModel
from effdet_torch.integrations.model_card import NO_LICENCE, NOT_CHECKED
from support.coco_samples import small_model, write_coco, write_model
from support.commands import run

NAMES = {"label_map": ((1, "cat|x"), (2, "dog"))}


def hub_model(**overrides: Any) -> HubModel:
    return HubModel.of(small_model(**overrides))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_model(small_model(**NAMES), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def written(file: Path, **changes: Any) -> Path:
    """Write a report about a file, as effdet-verify does."""
    report = {
        "model": {"sha256": sha256(file)},
        "verdict": "PASS",
        "claim": {"text": "config.yaml"},
        "reference": {"name": "TensorFlow"},
        "settings": {"modes": ["isolated"], "dtypes": ["float64"], "annotations": "val.json", "image_size": [64, 64]},
        "layers": [{"passed": True}, {"passed": False}],
        "audit": {"tensors": 7, "passed": True},
        "detection": {"metrics": {"AP": 0.343, "AP50": 0.5, "AR1": 0.1}, "images": 4, "complete": False},
        **changes,
    }
    path = file.with_name(f"report{len(list(file.parent.iterdir()))}.json")
    path.write_text(json.dumps(report))
    return path


def test_nothing_is_claimed_without_a_report() -> None:
    card = hub_model(**NAMES).generate_model_card()
    assert NOT_CHECKED in str(card)
    assert NO_LICENCE in str(card)
    assert card.data.license == "unknown"
    assert card.data.eval_results is None
    assert "| classes | 2 classes: cat\\|x, dog |" in str(card)  # a name cannot end its cell
    assert "not on record" in str(card)


def test_what_a_report_found_and_on_what(file: Path) -> None:
    hub = HubModel.of(load_model(file))
    card = hub.generate_model_card(file, [written(file)], license="apache-2.0", repo_id="user/mine")
    text = str(card)
    assert "PASS, rests on config.yaml" in text
    assert (
        "1 of 2 comparisons of layers agree, with TensorFlow (isolated, float64, network input 64 x 64 pixels)" in text
    )
    assert "7 tensors compared with the checkpoint's: equal" in text
    assert "AP 34.3, AP50 50.0 on 4 images of val.json" in text
    assert 'Predictor("hf:user/mine")' in text
    assert "apache-2.0, as stated" in text
    assert card.data.license == "apache-2.0"
    assert [(row.metric_type, row.metric_value) for row in card.data.eval_results] == [("AP", 34.3), ("AP50", 50.0)]


@pytest.mark.parametrize(
    ("annotations", "images", "kind"),
    [("instances_val2017.json", 5000, "coco"), ("instances_val2017.json", 50, "own"), ("val.json", 5000, "own")],
)
def test_only_cocos_own_split_is_called_so(file: Path, annotations: str, images: int, kind: str) -> None:
    detection = {"metrics": {"AP": 0.3}, "images": images, "complete": True}
    report = written(file, settings={"annotations": annotations}, detection=detection)
    card = HubModel.of(load_model(file)).generate_model_card(file, [report])
    assert [row.dataset_type for row in card.data.eval_results] == [kind]


def test_a_report_about_other_values_is_refused(file: Path) -> None:
    hub, report = HubModel.of(load_model(file)), written(file)
    assert "PASS" in str(hub.generate_model_card(file, [report]))
    with pytest.raises(UsageError, match="pass that file as well"):
        hub.generate_model_card(reports=[report])
    with pytest.raises(UsageError, match="is about another file than"):
        hub.generate_model_card(file, [report, written(file, model={"sha256": "0"})])
    with torch.no_grad():
        hub.class_net.predict.conv_pw.bias[0] += 1  # trained since
    with pytest.raises(UsageError, match=r"other values than .*: class_net.predict.conv_pw.bias; verify it again"):
        hub.generate_model_card(file, [report])


@pytest.mark.parametrize("text", ["[]", "{", '{"verdict": "PASS"}'])
def test_what_is_not_a_report(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match=r"report\.json"):
        hub_model().generate_model_card(tmp_path / "x.pth", [tmp_path / "report.json"])


OTHER_SETTINGS: dict[str, Any] = {
    "activation": "relu6",
    "anchor_scale": 3.0,
    "image_size": 128,
    "mean_rgb": (1.0, 2.0, 3.0),
    "nms_configs": (("sigma", 0.1),),
    "label_map": {1: "dog", 2: "cat"},
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_report_about_other_settings_is_refused(file: Path, name: str) -> None:
    """The tensors are the same; detections and AP are not."""
    other = create_model("d0", pretrained=file, **{name: OTHER_SETTINGS[name]})
    with pytest.raises(UsageError, match=f"the model has {name} .*, and .*model.pth has .*: save the model"):
        HubModel.of(other).generate_model_card(file, [written(file)])


def test_values_are_compared_bit_for_bit(file: Path) -> None:
    same = load_model(file)
    assert HubModel.of(same).generate_model_card(file)
    with torch.no_grad():
        same.class_net.predict.conv_pw.bias[0] = 0.0
    save_model(same, file)
    with torch.no_grad():
        same.class_net.predict.conv_pw.bias[0] = -0.0  # equal to 0, and another value
    for other in (same, load_model(file).half(), load_model(file).double()):
        with pytest.raises(UsageError, match="other values than"):
            HubModel.of(other).generate_model_card(file)


def test_settings_of_a_measurement_are_stated(file: Path) -> None:
    hub = HubModel.of(load_model(file))
    changed = {"annotations": "val.json", "image_size": [32, 48], "backend": "onnx", "labels": "names.txt"}
    card = hub.generate_model_card(file, [written(file, settings=changed)])
    stated = "network input 48 x 32 pixels, not the model's own 64 x 64, exported for onnx, device not on record, "
    assert stated in str(card).partition("## What was checked")[2]
    assert "class names of names.txt" in str(card)
    assert all(f"{row.metric_type} ({stated}" in row.metric_name for row in card.data.eval_results)
    unknown = str(hub.generate_model_card(file, [written(file, settings={})]))
    assert "network input not on record, PyTorch" in unknown


def test_what_two_reports_say_is_written_once(file: Path) -> None:
    hub, report = HubModel.of(load_model(file)), written(file)
    once, twice = (hub.generate_model_card(file, reports) for reports in ([report], [report, written(file)]))
    assert str(once) == str(twice)
    other = written(file, settings={"annotations": "val.json", "image_size": [32, 32]})
    both = hub.generate_model_card(file, [report, other]).data.eval_results  # negative control: another size
    assert len({(row.metric_name, row.metric_value) for row in both}) == 2 * len(once.data.eval_results)


def provenance(path: Path, metadata: Mapping[str, Any], **card: Any) -> str:
    model = small_model()
    content = {"config": model.config.to_dict(), **metadata}
    torch.save({"state_dict": model.state_dict(), "metadata": content}, path)
    return provenance_of(str(HubModel.of(load_model(path)).generate_model_card(**card)))


def test_where_a_model_is_from(tmp_path: Path) -> None:
    source = {"name": "model.ckpt", "kind": "TF1 checkpoint", "files": [{"name": "a", "sha256": "12"}]}
    path, began = tmp_path / "m.pth", "* began as a model that was converted from model.ckpt"
    converted = "* converted from model.ckpt (TF1 checkpoint): `a` SHA-256 `12`\n"
    assert converted in provenance(path, {"source": source}, file=path)
    assert began in provenance(path, {"source": source})  # it may have been changed since
    assert began in provenance(path, {"parent": {"source": source}}, file=path)
    untrained = {"source": source, "untrained": ["class head"]}
    assert "* UNTRAINED class head" in provenance(path, untrained, file=path)
    assert "* UNTRAINED class head" in provenance(path, untrained)  # its head holds what it held in the file
    changed = {"parent": untrained}
    assert "* the model that it began as: UNTRAINED class head" in provenance(path, changed)
    trained = {"training": {"recipe": "default"}, "parent": {"source": source}}
    assert "* trained: default recipe" in (both := provenance(path, trained, file=path))
    assert began in both
    assert "* began as a model that was trained: default recipe" in provenance(path, trained)


@pytest.mark.parametrize("changes", [{"image_size": 128}, {"num_classes": 3}])
def test_a_changed_model_was_not_converted(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = write_model(tmp_path / "m.pth")
    models = [load_model(file), create_model("d0", pretrained=file, **changes)]
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter *= 0.9
    for index, model in enumerate(models):
        HubModel.of(model).save_pretrained(tmp_path / f"hub{index}")
        card = (tmp_path / f"hub{index}" / "README.md").read_text()
        assert "* converted from" not in card
        assert "* began as a model that was converted from mine" in card
        again = HubModel.from_pretrained(str(tmp_path / f"hub{index}")).generate_model_card()
        assert provenance_of(str(again)) == provenance_of(card)
    same = HubModel.of(load_model(file)).generate_model_card(file)  # negative control
    assert "* converted from mine" in str(same)


def provenance_of(card: str) -> str:
    return card.partition("## Where it is from")[2].partition("## What was")[0]


def test_a_report_of_the_command_itself(tmp_path: Path) -> None:
    """The keys that the card reads are those that effdet-verify writes."""
    write_coco(tmp_path)
    file = write_model(tmp_path / "model.pth")
    options = ("--limit", "2", "--image-size", "128", "--device", "cpu", "--report-dir", "report")
    done = run("effdet-verify", file, "--coco", tmp_path, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = str(HubModel.of(load_model(file)).generate_model_card(file, [tmp_path / "report" / "report.json"]))
    assert "* effdet-verify: EVALUATED, rests on" in card
    stated = "network input 128 x 128 pixels, not the model's own 64 x 64, PyTorch, device cpu, profile official-eval, "
    assert f" on 2 images of instances_val2017.json; {stated}" in card
