"""Networks of the Object Detection API: which one it is, and on what its settings rest."""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion import prepare
from converter.errors import ConversionError, UnsupportedSourceError
from converter.identify.effdet_package import detector_notes
from converter.identify.evidence import ASSUMED
from converter.identify.families import OBJECT_DETECTION_API
from converter.identify.object_detection_api.network import taps
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.family import Settings
from converter.source import VariableSource
from converter.writers.targets import TARGETS
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import UsageError
from effdet_torch.file_format import assumptions
from effdet_torch.processing.profiles import PROFILES, own_profile
from support.pipelines import changed
from support.sources import MemorySource, placeholders, seeded, small_config
from support.tiny_protos import ObjectGraph

API, FILE = "the TF Object Detection API", "pipeline.config"
SMALL = (("depth: 64", "depth: 8"), ("num_filters: 64", "num_filters: 8"), ("num_iterations: 3", "num_iterations: 1"))
SMALL_PIPELINE = changed(
    *SMALL,
    ("num_classes: 90", "num_classes: 2"),
    ("max_level: 7", "max_level: 5"),
    ("num_layers_before_predictor: 3", "num_layers_before_predictor: 1"),
)


def source_of(variant: str, folder: Path, pipeline: str = "", **overrides: Any) -> MemorySource:
    config = get_config(variant, **overrides)
    config = get_config(variant, taps=taps(config.backbone, config.min_level), **overrides)
    if pipeline:
        (folder / FILE).write_text(pipeline)
    return MemorySource(placeholders(OBJECT_DETECTION_API.plan(config)), str(folder / "ckpt-0"))


def settled(source: VariableSource, **options: Any) -> Settings:
    done = prepare(source, **options)
    assert done.family is OBJECT_DETECTION_API
    return done.settings


@pytest.mark.parametrize("variant", [f"d{number}" for number in range(8)])
def test_a_checkpoint_alone_has_the_usual_settings(variant: str, tmp_path: Path) -> None:
    result = settled(source_of(variant, tmp_path), variant=variant)
    expected = get_config(variant)
    assert isinstance(result.config, EfficientDetConfig)
    assert result.config.image_size == expected.image_size
    assert result.config.anchor_scale == 4.0  # d7's, too
    assert result.config.resize == "legacy"
    assert (result.config.taps == ()) == (variant == "d0")
    assert dict(result.config.nms_configs)["profile"] == "object-detection-api"
    assumed = {"image_size", "num_scales", "aspect_ratios", "anchor_scale", "act_type", "nms_configs"}
    assert result.assumed.keys() - {"fpn_weight_method"} == assumed
    assert {result.origins[name] for name in ("image_size", "anchor_scale", "nms_configs")} == {ASSUMED}
    assert {result.origins[name] for name in ("taps", "resize", "mean_rgb", "survival_prob")} == {API}


def test_the_api_is_named(tmp_path: Path) -> None:
    done = prepare(source_of("d1", tmp_path))
    assert done.settings.notes[0].startswith("a network of the TF Object Detection API")
    facts = inspect_source(source_of("d1", tmp_path))
    assert facts["architecture"].startswith("TF Object Detection API: efficientnet-b1, BiFPN 4 x 88 channels")
    assert facts["ignored"] == {}
    assert facts["problems"] == []
    assert "(not set in pipeline.config or --hparams)" in str(assumptions(facts))
    assert str(assumptions(facts)).endswith("or with pipeline.config beside the checkpoint")


def test_a_pipeline_leaves_nothing_assumed(tmp_path: Path) -> None:
    text = changed(
        ("anchor_scale: 4.0", "anchor_scale: 3.0"), ("on: 512", "on: 640"), ("iou_threshold: 0.5", "iou_threshold: 0.7")
    )
    result = settled(source_of("d0", tmp_path, text))
    assert result.assumed == {}
    assert (result.config.image_size, result.config.anchor_scale) == ((640, 640), 3.0)
    assert dict(result.config.nms_configs)["iou_thresh"] == 0.7
    assert {result.origins[name] for name in ("image_size", "anchor_scale", "nms_configs", "activation")} == {FILE}
    other = settled(source_of("d0", tmp_path), hparams={"anchor_scale": 2.0, "mean_rgb": 0, "num_scales": 3})
    assert (other.config.anchor_scale, other.origins["anchor_scale"]) == (2.0, "--hparams")
    replaced = [note for note in other.notes if note.startswith("--hparams")]
    assert replaced == [
        "--hparams sets anchor_scale to 2.0, pipeline.config has 3.0",
        "--hparams sets mean_rgb to (0.0, 0.0, 0.0), the TF Object Detection API has (123.675, 116.28, 103.53)",
    ]


def test_a_config_yaml_is_not_read(tmp_path: Path) -> None:
    source, note = source_of("d0", tmp_path), f"config.yaml is not read: the settings of {API} are in pipeline.config"
    assert note not in settled(source).notes
    (tmp_path / "config.yaml").write_text("anchor_scale: 3.0")
    result = settled(source)
    assert note in result.notes
    assert isinstance(result.config, EfficientDetConfig)
    assert result.config.anchor_scale == 4.0


@pytest.mark.parametrize(("size", "variant"), [(1280, "d6"), (1536, "d7")])
def test_the_size_tells_d6_from_d7(size: int, variant: str, tmp_path: Path) -> None:
    pipeline = changed(
        ("efficientnet-b0", "efficientnet-b6"),
        ("depth: 64", "depth: 384"),
        ("num_iterations: 3 num_filters: 64", "num_iterations: 8 num_filters: 384 combine_method: 'sum'"),
        ("num_layers_before_predictor: 3", "num_layers_before_predictor: 5"),
        ("on: 512", f"on: {size}"),
    )
    assert settled(source_of(variant, tmp_path, pipeline)).config.name == variant


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("num_classes: 90", "num_classes: 7"),
            "pipeline.config sets num_classes to 7, but the checkpoint's shapes show 90",
        ),
        (("efficientnet-b0", "efficientnet-b1"), "pipeline.config sets backbone_name to efficientnet-b1"),
        (("max_level: 7", "max_level: 6"), "pipeline.config sets max_level to 6"),
        (("scales_per_octave: 3", "scales_per_octave: 2"), "2 scales x 3 aspect ratios, but the heads have 9 anchors"),
        (("iou_threshold: 0.5", "soft_nms_sigma: 0.5"), "soft_nms_sigma is 0.5; only 0 is supported"),
    ],
)
def test_a_pipeline_of_another_network_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as error:
        settled(source_of("d0", tmp_path, changed(change)))
    assert message in str(error.value)
    assert error.value.exit_code == 1


def test_an_incomplete_network_is_named(tmp_path: Path) -> None:
    source = source_of("d0", tmp_path)
    arrays = {name: array for name, array in source.arrays.items() if "ClassPredictor/" not in name}
    with pytest.raises(UnsupportedSourceError, match="an incomplete EfficientDet of the TF Object Detection API"):
        prepare(MemorySource(arrays))
    arrays = {name: array for name, array in source.arrays.items() if "stack_3/block_1/" not in name}
    with pytest.raises(ConversionError, match="not a complete d0: 19 missing, 0 unexpected"):
        prepare(MemorySource(arrays))


@pytest.mark.parametrize("target", ["tf1", "h5"])
@pytest.mark.parametrize(("variant", "reason"), [("d0", "not resize legacy"), ("d1", r"not taps \[\[2, 1\]")])
def test_official_formats_cannot_hold_it(target: str, variant: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{variant} cannot be written as {target}: the official code .*{reason}"):
        prepare(source_of(variant, tmp_path)).for_target(TARGETS[target])


@pytest.mark.parametrize(("variant", "reason"), [("d0", "resize legacy"), ("d1", "taps .*, resize legacy")])
def test_the_effdet_package_cannot_build_it(variant: str, reason: str, tmp_path: Path) -> None:
    config = settled(source_of(variant, tmp_path)).config
    assert isinstance(config, EfficientDetConfig)
    with pytest.raises(UsageError, match=f"cannot build this network: {reason}; omit --layout effdet"):
        list(detector_notes(config))
    list(detector_notes(replace(config, resize="half_pixel", taps=())))  # negative control


def test_a_soft_suppression_that_the_user_asks_for_counts(tmp_path: Path) -> None:
    methods = {"hard": 0.0, "gaussian": 0.5}
    for method, sigma in methods.items():
        config = settled(source_of("d0", tmp_path), hparams={"nms_configs": {"method": method}}).config
        assert isinstance(config, EfficientDetConfig)
        expected = replace(PROFILES["object-detection-api"], sigma=sigma)
        assert own_profile(config) == expected


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the API publishes it: checkpoint/, saved_model/ and pipeline.config."""
    folder = tmp_path_factory.mktemp("published") / "efficientdet_d0_coco17_tpu-32"
    plan = OBJECT_DETECTION_API.plan(small_config())
    for place, keys in (("checkpoint/ckpt-0", "model/layers"), ("saved_model/variables/variables", "_model/variables")):
        graph = ObjectGraph()
        for number, (name, value) in enumerate(seeded(plan).items()):
            graph.add(f"{keys}/{number}", name, value)
        (folder / place).parent.mkdir(parents=True)
        graph.write(folder / place)
    (folder / "checkpoint" / "checkpoint").write_text('model_checkpoint_path: "ckpt-0"')
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    (folder / FILE).write_text(SMALL_PIPELINE)
    return folder


def archive_of(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("part", ["", "checkpoint", "checkpoint/ckpt-0", "saved_model", "saved_model/variables"])
def test_every_part_of_what_is_published_can_be_named(part: str, published: Path) -> None:
    with open_checkpoint(published / part) as source:
        result = settled(source)
    assert (result.config.num_classes, result.config.fpn_channels, result.assumed) == (2, 8, {})
    above = "saved_model" if part.startswith("saved_model") else "checkpoint"
    assert result.origins["anchor_scale"] == f"pipeline.config above {above}/"


def test_the_published_archive_is_read_with_its_pipeline(published: Path, tmp_path: Path) -> None:
    with open_checkpoint(archive_of(published, tmp_path / "efficientdet_d0_coco17_tpu-32.tar.gz")) as source:
        result = settled(source)
    assert result.assumed == {}
    assert result.origins["anchor_scale"] == "pipeline.config above checkpoint/"


def test_an_archive_of_the_saved_model_alone_is_read(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("of another network")  # beside the temporary folder
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_checkpoint(archive_of(published / "saved_model", tmp_path / "hub.tar.gz")) as source:
        assert source.kind == "TF2 SavedModel"
        assert "image_size" in settled(source).assumed


@pytest.mark.slow
def test_a_training_with_averages_gives_them(tmp_path: Path) -> None:
    plan, graph = OBJECT_DETECTION_API.plan(small_config()), ObjectGraph()
    averages = seeded(plan, seed=1)
    for number, (name, value) in enumerate(seeded(plan).items()):
        path = f"model/layers/{number}"
        place = graph.add(path, name, value)
        if name in plan.trainable:
            for slot, content in (("momentum", value), ("average", averages[name])):
                graph.add_slot(place, slot, path, content)
    graph.add("optimizer/iter", "iter", np.array(7, np.int64))
    with open_checkpoint(graph.write(tmp_path / "ckpt-7")) as source:
        done = prepare(source)
        assert done.family is OBJECT_DETECTION_API
        assert done.view.name == "ema"
        stored = done.view.stored["stem_conv2d/kernel"]
        assert np.array_equal(source.read(stored), averages["stem_conv2d/kernel"])
        assert "optimizer slot: momentum (in Keras 3's Adam the first moment)" in set(done.accounting.ignored.values())
