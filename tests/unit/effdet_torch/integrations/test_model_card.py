"""What the card of a model says, and which reports it does not take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet_torch import load_model, save_model
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
        "settings": {"modes": ["isolated"], "dtypes": ["float64"], "annotations": "val.json"},
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
    card = hub.generate_model_card(file, [written(file)], licence="apache-2.0", repo_id="user/mine")
    text = str(card)
    assert "PASS, rests on config.yaml" in text
    assert "1 of 2 comparisons of layers agree, with TensorFlow (isolated, float64)" in text
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


def provenance(metadata: Mapping[str, Any]) -> str:
    hub = hub_model()
    hub.metadata = dict(metadata)
    return str(hub.generate_model_card()).partition("## Where it is from")[2].partition("## What was")[0]


def test_where_a_model_is_from() -> None:
    source = {"name": "model.ckpt", "kind": "TF1 checkpoint", "files": [{"name": "a", "sha256": "12"}]}
    assert "* converted from model.ckpt (TF1 checkpoint)\n* `a`, SHA-256 `12`" in provenance({"source": source})
    assert "* began as a model that was converted from model.ckpt" in provenance({"parent": {"source": source}})
    assert "UNTRAINED class head" in provenance({"source": source, "untrained": ["class head"]})
    assert "trained: default recipe" in provenance({"training": {"recipe": "default"}})


def test_a_report_of_the_command_itself(tmp_path: Path) -> None:
    """The keys that the card reads are those that effdet-verify writes."""
    write_coco(tmp_path)
    file = write_model(tmp_path / "model.pth")
    done = run("effdet-verify", file, "--coco", tmp_path, "--limit", "2", "--report-dir", "report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = str(HubModel.of(load_model(file)).generate_model_card(file, [tmp_path / "report" / "report.json"]))
    assert "* effdet-verify: EVALUATED, rests on" in card
    assert " on 2 images of instances_val2017.json, profile official-eval, " in card
