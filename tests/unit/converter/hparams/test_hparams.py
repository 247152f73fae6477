"""Hyperparameters in the official syntax, from files that may be untrusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from converter.hparams.blocks import own_blocks
from converter.hparams.fields import config_fields, hparams_of, stated_hparams
from converter.hparams.given import given_hparams
from converter.hparams.syntax import parse_hparams, read_hparams_file
from effdet_torch.config import VARIANTS, get_config
from effdet_torch.errors import ConfigError
from support.sources import MemorySource


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_reads_the_config_of_a_training(shared: Path) -> None:
    values = read_hparams_file(shared / "trained_d0_256" / "config.yaml")
    assert values["image_size"] == (256, 256)
    expected = get_config("d0", image_size=256, std_rgb=(58.395, 57.120000000000005, 57.375))
    assert get_config("d0", **config_fields(values)) == expected
    assert config_fields(values).keys() >= {"num_classes", "aspect_ratios", "std_rgb", "normalization", "max_level"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("image_size: !!python/tuple\n- 384\n- 640\n", {"image_size": (384, 640)}),
        ("nested: !!python/tuple [!!python/tuple [1], 2]", {"nested": ((1,), 2)}),
        ("1: a\nno: b", {"1": "a", "False": "b"}),
        # A block of a backbone is plain data: nothing is imported, nothing is called.
        ("b: !!python/object/new:backbone.efficientnet_model.BlockArgs [3, [1, 1], 0.25]", {"b": [3, [1, 1], 0.25]}),
    ],
)
def test_reads_tuples_and_any_names(tmp_path: Path, text: str, values: dict[str, Any]) -> None:
    assert read_hparams_file(write(tmp_path, text)) == values


NOT_PLAIN: list[str | bytes] = [
    "a: !!python/object/apply:os.system ['touch PROOF']",
    "a: !!python/object/new:os.system ['touch PROOF']",
    "a: !!python/name:os.system",
    "a: !!python/module:os",
    "a: !!python/object:pathlib.Path {}",
    "a: !!python/tuple {b: !!python/object/apply:os.system ['touch PROOF']}",
    *("a: !!python/tuple 3", "a: !local b", "a: [", "a: b: c", "a: *nobody", '!!int "": b', 'a: !!int ""'),
    *('a: !!float ""', "a: !!timestamp x", "a: 2001-99-99", "? [a]\n: b", "a: &a !!python/tuple [*a]"),
    *("a: 1\nb: 2\na: 3", "a: {b: 1, b: 2}", "a: !!python/object/new:os.BlockArgs {b: 1}"),
    *("a: " + "[" * 5000, "a: \x00", "--- a\n--- b", b"a: \xff\xfe"),
]
WORDS = r"is not plain YAML .*; fix it, or pass its values with --hparams"
OTHER = {"": "contains a NoneType; expected names and values", "- a": "contains a list", "word": "contains a str"}


@pytest.mark.parametrize(("content", "words"), [*((text, WORDS) for text in NOT_PLAIN), *OTHER.items()])
def test_refuses_files_without_running_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"config.yaml {words}"):
        read_hparams_file(path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_sources_of_hyperparameters_weakest_first(tmp_path: Path) -> None:
    source = MemorySource({}, str(tmp_path / "model"))
    assert given_hparams(source) == given_hparams(source, "") == ([], [])
    assert given_hparams(source, "num_classes=3") == ([("--hparams", {"num_classes": 3})], [])
    write(tmp_path, "num_classes: 20")
    source = MemorySource({}, str(tmp_path / "model"), given=(("its metadata", {"num_classes": 4}),))
    for option in ({"num_classes": 3}, *(str(write(tmp_path, "num_classes: 3", name)) for name in ("a.yaml", "b.yml"))):
        given, notes = given_hparams(source, option)
        assert not notes
        assert given == [
            ("config.yaml", {"num_classes": 20}),
            ("its metadata", {"num_classes": 4}),
            ("--hparams", {"num_classes": 3}),
        ]
    with pytest.raises(ConfigError, match=r"absent.yaml cannot be read: No such file"):
        given_hparams(source, str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("name", ["act_type", "image_size", "num_classes", "separable_conv", "mean_rgb", "scale_range"])
def test_null_is_a_value_only_where_the_official_code_has_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--hparams: the hyperparameter {name} is null; expected a value"):
        config_fields({name: None})


def test_aliases_cannot_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    with pytest.raises(ConfigError, match=r"config.yaml is not plain YAML \(it holds more than \d+ values"):
        read_hparams_file(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("name", ["config.yml", "Config.yaml"])
def test_a_similar_name_is_pointed_out(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "num_classes: 20", name)
    given, (note,) = given_hparams(MemorySource({}, str(tmp_path / "model")))
    assert given == []
    assert note == f"{name} is not used: it is not called config.yaml; pass --hparams {path}"


@pytest.mark.parametrize("folder", ["archive", "backup", "Archive_2", "saved_model"])
def test_the_config_above_a_copy_is_used_and_said(tmp_path: Path, folder: str) -> None:
    write(tmp_path, "num_classes: 20")
    (tmp_path / folder).mkdir()
    source = MemorySource({}, str(tmp_path / folder / "model"))
    origin = f"config.yaml above {folder}/"
    note = f"config.yaml of the folder above {folder}/ is used"
    assert given_hparams(source) == ([(origin, {"num_classes": 20})], [note])
    write(tmp_path / folder, "num_classes: 3")  # its own comes first
    assert given_hparams(source) == ([("config.yaml", {"num_classes": 3})], [])


def test_the_config_above_any_other_folder_is_pointed_out(tmp_path: Path) -> None:
    above = write(tmp_path, "num_classes: 20")
    for folder in ("run2", "bestiary", "exporter"):
        (tmp_path / folder).mkdir()
        source = MemorySource({}, str(tmp_path / folder / "model"))
        given, (note,) = given_hparams(source)
        assert given == []
        assert f"above {folder}/ is not used" in note
        assert note.endswith(f"pass --hparams {above}")
        assert given_hparams(source, str(above)).notes == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_sise", r"unknown hyperparameter image_sise; did you mean image_size\?"),
        ("qwertyuiop", "unknown hyperparameter qwertyuiop; the official code has no such hyperparameter"),
    ],
)
def test_unknown_names_are_refused_wherever_they_stand(tmp_path: Path, name: str, words: str) -> None:
    source = MemorySource({}, str(tmp_path / "model"))
    for option in ({name: 1}, f"num_classes=3,{name}=1", str(write(tmp_path, f"{name}: 1", "own.yaml"))):
        with pytest.raises(ConfigError, match=f"^--hparams: {words}"):
            given_hparams(source, option)
    path = write(tmp_path, f"{name}: 1")
    with pytest.raises(ConfigError, match=f"^config.yaml: {words}.*Fix {path}, or move it away"):
        given_hparams(source)


def test_every_name_of_official_runs_is_known(shared: Path) -> None:
    sources = shared / "reference" / "sources"
    files = [*sources.rglob("*config.yaml"), shared / "trained_d0_256" / "config.yaml"]
    assert len(files) > 30
    for path in files:
        given = given_hparams(MemorySource({}), str(path))
        assert given.hparams


@pytest.mark.parametrize("text", ["a=1,a=2", "a.b=1,a.b=2", "a=1,a.b=2", "a.b=1,a=2"])
def test_a_name_is_given_once(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^hyperparameter a(\.b)? is given twice; give it once$"):
        parse_hparams(text)


CHANGES: list[dict[str, Any]] = [
    {},
    {
        "image_size": (384, 640),
        "normalization": "advprop",
        "fusion": "attn",
        "mean_rgb": (0.0,) * 3,
        "std_rgb": (1.0,) * 3,
    },
    {"normalization": "scale_range", "activation": "mish", "survival_prob": 0.8, "conv_after_downsample": True},
    {"fpn_name": "qufpn", "fusion": "channel_attn", "separable_conv": False, "label_map": ((1, "a"), (7, "b"))},
    {"fpn_config": ((3, (0, 1)), (4, (1, 3)), (5, (2, 4))), "max_level": 5, "apply_bn_for_resampling": False},
    {"min_level": 2, "conv_bn_act_pattern": True, "anchor_scale": (4.0, 4.0, 4.0, 4.0, 5.0, 6.0), "max_level": 7},
    {"aspect_ratios": ((1.0, 1.0), (1.4, 0.7), 0.5), "nms_configs": (("method", "hard"), ("iou_thresh", 0.6))},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("changes", CHANGES)
def test_hparams_of_a_config_give_the_same_config(variant: str, changes: dict[str, Any]) -> None:
    config = get_config(variant, **changes)
    hparams = hparams_of(config)
    assert yaml.safe_load(yaml.safe_dump(hparams)) == hparams
    assert get_config(variant, **config_fields(hparams)) == config
    assert hparams["name"] == f"efficientdet-{variant}"


def test_only_values_from_the_option_are_stated_again() -> None:
    config = get_config("d0", fusion="attn", image_size=(384, 640))
    origins = {"fusion": "--hparams", "image_size": "config.yaml", "num_classes": "names and shapes"}
    assert stated_hparams(config, origins) == {"fpn_weight_method": "attn"}
    assert stated_hparams(config, {}) == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        (",", {}),
        (" num_classes = 20 , anchor_scale=3.5,", {"num_classes": 20, "anchor_scale": 3.5}),
        ("image_size=640x384", {"image_size": "640x384"}),
        ("aspect_ratios=1.0*2.0*0.5", {"aspect_ratios": [1.0, 2.0, 0.5]}),
        ("scale_range=true,a=False,b=TRUE", {"scale_range": True, "a": False, "b": True}),
        ("act_type=relu6,name='x'", {"act_type": "relu6", "name": "x"}),
        ("label_map=None", {"label_map": None}),
        ("nms_configs.method=hard,nms_configs.iou_thresh=0.6", {"nms_configs": {"method": "hard", "iou_thresh": 0.6}}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_parses_pairs(text: str, values: dict[str, Any]) -> None:
    assert parse_hparams(text) == values


@pytest.mark.parametrize("text", ["num_classes", "=3", "num_classes=", "a=1,b", "a= ", "num_classes:3"])
def test_refuses_incomplete_pairs(text: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form key=value"):
        parse_hparams(text)


@pytest.mark.parametrize(
    ("hparams", "fields"),
    [
        ({"image_size": 512}, {"image_size": (512, 512)}),
        ({"image_size": "512"}, {"image_size": (512, 512)}),
        ({"image_size": "640x384"}, {"image_size": (384, 640)}),  # text is WIDTHxHEIGHT
        ({"image_size": "640X384"}, {"image_size": (384, 640)}),
        ({"image_size": (384, 640)}, {"image_size": (384, 640)}),  # a tuple is (height, width)
        ({"image_size": [384, 640]}, {"image_size": (384, 640)}),
        ({"num_classes": 20.0}, {"num_classes": 20}),
        ({"survival_prob": None}, {"survival_prob": 0.0}),
        ({"fpn_weight_method": None, "fpn_name": None}, {"fusion": "fastattn", "fpn_name": "bifpn"}),
        ({"backbone_config": None, "fpn_config": None}, {"fpn_config": ()}),
        ({"aspect_ratios": [[1.0, 1], [1.4, 0.7]]}, {"aspect_ratios": ((1.0, 1.0), (1.4, 0.7))}),
        ({"anchor_scale": [3, 4]}, {"anchor_scale": (3.0, 4.0)}),
        ({"fpn_weight_method": "attn", "fpn_config": None}, {"fusion": "attn", "fpn_config": ()}),
        ({"act_type": "silu"}, {"activation": "swish"}),
        ({"label_map": {1: "a", 5: "b"}}, {"label_map": ((1, "a"), (5, "b"))}),
        ({"label_map": "waymo"}, {"label_map": ((1, "vehicle"), (2, "pedestrian"), (3, "cyclist"))}),
        ({"nms_configs": {"method": "gaussian", "iou_thresh": None, "max_output_size": 100}}, {"nms_configs": ()}),
        ({"nms_configs": {"sigma": 0.3}}, {"nms_configs": (("sigma", 0.3),)}),
        (
            {"fpn_config": {"nodes": [{"feat_level": 4, "inputs_offsets": [0, 1]}], "weight_method": "sum"}},
            {"fpn_config": ((4, (0, 1)),), "fusion": "sum"},
        ),
        ({"heads": ["object_detection"]}, {"heads": ("object_detection",)}),
        ({"heads": "segmentation", "seg_num_classes": 21}, {"heads": ("segmentation",), "seg_num_classes": 21}),
        ({"heads": ["segmentation", "object_detection"]}, {"heads": ("object_detection", "segmentation")}),
        ({"aspect_ratios": 1}, {"aspect_ratios": (1.0,)}),
        ({"aspect_ratios": [1, "2", 0.5]}, {"aspect_ratios": (1.0, 2.0, 0.5)}),
        ({"anchor_scale": 3}, {"anchor_scale": 3.0}),
        ({"anchor_scale": [3.0]}, {"anchor_scale": 3.0}),
        ({"anchor_scale": "44"}, {"anchor_scale": 44.0}),  # one number, not one per digit
        ({"mean_rgb": "123"}, {"mean_rgb": (123.0,) * 3}),
        ({"stddev_rgb": [1, 2, 3]}, {"std_rgb": (1.0, 2.0, 3.0)}),
        ({"scale_range": True}, {"normalization": "scale_range"}),
        ({"scale_range": False}, {"normalization": "mean_std"}),
        ({"fpn_weight_method": "attn"}, {"fusion": "attn"}),
        ({"act_type": "swish_native"}, {"activation": "swish"}),
        ({"backbone_name": "efficientnet-b1"}, {"backbone": "efficientnet-b1"}),
        ({"fpn_num_filters": 8, "fpn_cell_repeats": 2}, {"fpn_channels": 8, "fpn_cells": 2}),
        ({"box_class_repeats": 2, "max_level": 6}, {"head_repeats": 2, "max_level": 6}),
        ({"learning_rate": 0.1, "name": "efficientdet-d0", "momentum": 0.9}, {}),
    ],
)
def test_turns_official_names_into_fields(hparams: dict[str, Any], fields: dict[str, Any]) -> None:
    assert config_fields(hparams) == fields


INVALID: dict[str, list[object]] = {
    "image_size": ["640x384x3", "wide", [1, 2, 3], 512.5, {"height": 1}, float("inf")],
    "num_classes": ["many", 90.5, True, [90]],
    "num_scales": [2.5],
    "aspect_ratios": [[], [[1.0, 1.0, 1.0]], "all"],
    "anchor_scale": [[], ["a"], True],
    "fpn_weight_method": ["attnn", ["attn"]],
    "separable_conv": [1, "yes"],
    "fpn_name": ["nasfpn", "bifpn_sum"],
    "fpn_config": [3, {"nodes": 3}, {"nodes": [{"feat_level": 3}], "weight_method": "sum"}, {"nodes": []}],
    "heads": [[], ["segmentation", "depth"], "no_object_detection_here"],
    "seg_num_classes": ["many", 2.5],
    "nms_configs": [
        *(3, {"methods": "hard"}, {"method": "soft"}, {"sigma": -1}, {"iou_thresh": "abc"}, {"iou_thresh": 7}),
        *({"max_output_size": 2.5}, {"max_output_size": -5}, {"score_thresh": -3}, {"max_nms_inputs": 10**9}),
    ],
    "label_map": ["labels.yaml", {"a": "b"}, {1: None}, {1: "a", "1": "b"}],
    "survival_prob": [True, "often"],
    "backbone_config": [{"blocks": []}, {"blocks": [[3]]}, {"width": 1}, 3, {"blocks": [[]] * 7}, {"blocks": [{}] * 7}],
    "mean_rgb": [[1, 2], "abc"],
    "scale_range": ["yes"],
    "act_type": [["swish"], {"x": 1}],
    "max_level": ["7b"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_refuses_invalid_values(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config_fields({name: value})
    assert str(caught.value).startswith(f"--hparams: the hyperparameter {name} = {value!r} is not supported: ")


def test_lists_the_values_of_a_choice() -> None:
    with pytest.raises(ConfigError, match=r"act_type = 'gelu' is not supported: expected one of swish, swish_native"):
        config_fields({"act_type": "gelu"})
    with pytest.raises(ConfigError, match=r"act_type = 'srelu' is not supported: it learns a parameter at every"):
        config_fields({"act_type": "srelu"})


BLOCKS = {"kernel_size": 5, "id_skip": False, "se_ratio": 0.5, "fused_conv": 1, "strides": [2, 2], "super_pixel": 1}


@pytest.mark.parametrize(("name", "value"), BLOCKS.items())
def test_another_block_is_refused_by_what_differs(name: str, value: object) -> None:
    blocks = own_blocks()
    config_fields({"backbone_config": {"blocks": blocks}})
    config_fields({"backbone_config": {"blocks": [list(block.values()) for block in blocks]}})  # as a file lists them
    blocks[0][name] = value
    with pytest.raises(ConfigError, match=rf"backbone_config is not supported: block 0 has {name} "):
        config_fields({"backbone_config": {"blocks": blocks}})
