"""Hyperparameters in the official syntax, from files that may come from strangers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from converter.identify.hparams import (
    FIXED,
    config_fields,
    given_hparams,
    hparams_of,
    parse_hparams,
    read_hparams,
    read_hparams_file,
    stated_hparams,
)
from effdet_torch.config import VARIANTS, get_config
from effdet_torch.errors import ConfigError
from support.sources import MemorySource


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_reads_what_training_left(shared: Path) -> None:
    values = read_hparams_file(shared / "trained_d0_256" / "config.yaml")
    assert values["image_size"] == (256, 256)
    assert config_fields(values) == {
        "image_size": (256, 256),
        "num_classes": 90,
        "num_scales": 3,
        "aspect_ratios": (1.0, 2.0, 0.5),
        "anchor_scale": 4.0,
        "mean_rgb": (123.675, 116.28, 103.53),
        "std_rgb": (58.395, 57.120000000000005, 57.375),
        "normalization": "mean_std",
        "activation": "swish",
        "backbone": "efficientnet-b0",
        "fpn_channels": 64,
        "fpn_cells": 3,
        "head_repeats": 3,
        "max_level": 7,
    }


def test_reads_a_tuple_of_python(tmp_path: Path) -> None:
    path = write(tmp_path, "image_size: !!python/tuple\n- 384\n- 640\nnested: !!python/tuple [!!python/tuple [1], 2]\n")
    assert read_hparams_file(path) == {"image_size": (384, 640), "nested": ((1,), 2)}


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch PROOF']",
        "a: !!python/object/new:os.system ['touch PROOF']",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
        "a: !!python/object:pathlib.Path {}",
        "a: !!python/tuple {b: !!python/object/apply:os.system ['touch PROOF']}",
        "a: !local b",
    ],
)
def test_refuses_tags_that_would_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"is not plain YAML .*; correct it, or move it away and pass its values"):
        read_hparams_file(write(tmp_path, text))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: b: c",
        "a: *nobody",
        '!!int "": b',
        'a: !!int ""',
        'a: !!float ""',
        "a: !!timestamp x",
        "a: 2001-99-99",
        "? [a]\n: b",
        "a: &a !!python/tuple [*a]",
        "a: " + "[" * 5000,
        "a: \x00",
        "--- a\n--- b",
    ],
)
def test_refuses_what_is_not_yaml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not plain YAML"):
        read_hparams_file(write(tmp_path, text))


def test_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not plain YAML"):
        read_hparams_file(path)


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a", "list"), ("word", "str")])
def test_refuses_what_is_no_mapping(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"config.yaml holds a {kind}; expected names and values"):
        read_hparams_file(write(tmp_path, text))


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml cannot be read: No such file"):
        read_hparams(str(tmp_path / "absent.yaml"))


def test_names_need_not_be_text(tmp_path: Path) -> None:
    assert read_hparams_file(write(tmp_path, "1: a\nno: b")) == {"1": "a", "False": "b"}


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_an_option_is_a_file_or_pairs(tmp_path: Path, name: str) -> None:
    assert read_hparams(str(write(tmp_path, "num_classes: 20", name))) == {"num_classes": 20}
    assert read_hparams("num_classes=20") == {"num_classes": 20}


def test_the_option_comes_after_the_file(tmp_path: Path) -> None:
    source = MemorySource({}, str(tmp_path / "model"))
    assert given_hparams(source) == []
    assert given_hparams(source, "num_classes=3") == [("--hparams", {"num_classes": 3})]
    write(tmp_path, "num_classes: 20")
    assert given_hparams(source, "num_classes=3") == [
        ("config.yaml", {"num_classes": 20}),
        ("--hparams", {"num_classes": 3}),
    ]
    source.given = (("its metadata", {"num_classes": 4}),)
    assert [origin for origin, _ in given_hparams(source, {"num_classes": 3})] == [
        "config.yaml",
        "its metadata",
        "--hparams",
    ]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("changes", [{}, {"image_size": (384, 640), "normalization": "advprop", "fusion": "attn"}])
def test_a_config_in_the_official_words_is_the_same_config(variant: str, changes: dict[str, Any]) -> None:
    config = get_config(variant, **changes)
    hparams = hparams_of(config)
    assert yaml.safe_load(yaml.safe_dump(hparams)) == hparams
    assert get_config(variant, **config_fields(hparams)) == config
    assert hparams["name"] == f"efficientdet-{variant}"


def test_only_what_the_user_stated_is_stated_again() -> None:
    config = get_config("d0", fusion="attn", image_size=(384, 640))
    origins = {"fusion": "--hparams", "image_size": "config.yaml", "num_classes": "names and shapes"}
    assert stated_hparams(config, origins) == {"fpn_weight_method": "attn"}
    assert stated_hparams(config, {}) == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        (",", {}),
        ("num_classes=20", {"num_classes": 20}),
        (" num_classes = 20 , anchor_scale=3.5,", {"num_classes": 20, "anchor_scale": 3.5}),
        ("image_size=640x384", {"image_size": "640x384"}),
        ("aspect_ratios=1.0*2.0*0.5", {"aspect_ratios": [1.0, 2.0, 0.5]}),
        ("scale_range=true,a=False,b=TRUE", {"scale_range": True, "a": False, "b": True}),
        ("act_type=relu6,name='x'", {"act_type": "relu6", "name": "x"}),
        ("label_map=None", {"label_map": None}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_parses_pairs(text: str, values: dict[str, Any]) -> None:
    assert parse_hparams(text) == values


@pytest.mark.parametrize("text", ["num_classes", "=3", "num_classes=", "a=1,b", "a= ", "num_classes:3"])
def test_refuses_what_is_no_pair(text: str) -> None:
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
        ({"num_classes": None}, {}),
        ({"aspect_ratios": 1}, {"aspect_ratios": (1.0,)}),
        ({"aspect_ratios": [1, "2", 0.5]}, {"aspect_ratios": (1.0, 2.0, 0.5)}),
        ({"anchor_scale": 3}, {"anchor_scale": 3.0}),
        ({"anchor_scale": [3, 3, 3.0]}, {"anchor_scale": 3.0}),
        ({"mean_rgb": 127.0}, {"mean_rgb": (127.0, 127.0, 127.0)}),
        ({"stddev_rgb": [1, 2, 3]}, {"std_rgb": (1.0, 2.0, 3.0)}),
        ({"scale_range": True}, {"normalization": "advprop"}),
        ({"scale_range": False}, {"normalization": "mean_std"}),
        ({"fpn_weight_method": "attn"}, {"fusion": "attn"}),
        ({"act_type": "swish_native"}, {"activation": "swish"}),
        ({"backbone_name": "efficientnet-b1"}, {"backbone": "efficientnet-b1"}),
        ({"fpn_num_filters": 8, "fpn_cell_repeats": 2}, {"fpn_channels": 8, "fpn_cells": 2}),
        ({"box_class_repeats": 2, "max_level": 6}, {"head_repeats": 2, "max_level": 6}),
        ({"learning_rate": 0.1, "name": "efficientdet-d0", "momentum": 0.9}, {}),
        (dict(FIXED), {}),
    ],
)
def test_turns_official_names_into_fields(hparams: dict[str, Any], fields: dict[str, Any]) -> None:
    assert config_fields(hparams) == fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", "640x384x3"),
        ("image_size", "wide"),
        ("image_size", [1, 2, 3]),
        ("image_size", 512.5),
        ("image_size", {"height": 1}),
        ("image_size", float("inf")),
        ("num_classes", "many"),
        ("num_classes", 90.5),
        ("num_classes", True),
        ("num_classes", [90]),
        ("num_scales", 2.5),
        ("aspect_ratios", []),
        ("aspect_ratios", [[1.0, 1.0], [1.4, 0.7]]),
        ("aspect_ratios", "all"),
        ("anchor_scale", []),
        ("anchor_scale", [3, 4]),
        ("mean_rgb", [1, 2]),
        ("mean_rgb", "abc"),
        ("scale_range", "yes"),
        ("act_type", "gelu"),
        ("act_type", ["swish"]),
        ("max_level", "7b"),
    ],
)
def test_refuses_unusable_values(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config_fields({name: value})
    assert str(caught.value).startswith(f"hyperparameter {name} is {value!r}, which is not usable (")


def test_lists_the_values_of_a_choice() -> None:
    with pytest.raises(ConfigError, match="expected one of swish, swish_native, relu6"):
        config_fields({"act_type": "gelu"})


@pytest.mark.parametrize("name", FIXED)
def test_refuses_switches_to_another_network(name: str) -> None:
    value = 2 if name == "min_level" else not FIXED[name]
    with pytest.raises(ConfigError, match=f"hyperparameter {name} is {value!r}, which is unsupported"):
        config_fields({name: value})


def test_a_number_in_text_is_one_number() -> None:
    """Not one per digit."""
    assert config_fields({"mean_rgb": "123", "anchor_scale": "44"}) == {"mean_rgb": (123.0,) * 3, "anchor_scale": 44.0}
