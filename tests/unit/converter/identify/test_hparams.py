"""Hyperparameters in the official syntax, from files that may be untrusted."""

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
    *("a: " + "[" * 5000, "a: \x00", "--- a\n--- b", b"a: \xff\xfe"),
]
WORDS = r"is not plain YAML .*; fix it, or move it away and pass its values with --hparams"
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
    assert given_hparams(source) == given_hparams(source, "") == []
    assert given_hparams(source, "num_classes=3") == [("--hparams", {"num_classes": 3})]
    write(tmp_path, "num_classes: 20")
    source = MemorySource({}, str(tmp_path / "model"), given=(("its metadata", {"num_classes": 4}),))
    for option in ({"num_classes": 3}, *(str(write(tmp_path, "num_classes: 3", name)) for name in ("a.yaml", "b.yml"))):
        assert given_hparams(source, option) == [
            ("config.yaml", {"num_classes": 20}),
            ("its metadata", {"num_classes": 4}),
            ("--hparams", {"num_classes": 3}),
        ]
    with pytest.raises(ConfigError, match=r"absent.yaml cannot be read: No such file"):
        given_hparams(source, str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("changes", [{}, {"image_size": (384, 640), "normalization": "advprop", "fusion": "attn"}])
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
        ({"num_classes": None}, {}),
        ({"aspect_ratios": 1}, {"aspect_ratios": (1.0,)}),
        ({"aspect_ratios": [1, "2", 0.5]}, {"aspect_ratios": (1.0, 2.0, 0.5)}),
        ({"anchor_scale": 3}, {"anchor_scale": 3.0}),
        ({"anchor_scale": [3, 3, 3.0]}, {"anchor_scale": 3.0}),
        ({"anchor_scale": "44"}, {"anchor_scale": 44.0}),  # one number, not one per digit
        ({"mean_rgb": "123"}, {"mean_rgb": (123.0,) * 3}),
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


INVALID: dict[str, list[object]] = {
    "image_size": ["640x384x3", "wide", [1, 2, 3], 512.5, {"height": 1}, float("inf")],
    "num_classes": ["many", 90.5, True, [90]],
    "num_scales": [2.5],
    "aspect_ratios": [[], [[1.0, 1.0], [1.4, 0.7]], "all"],
    "anchor_scale": [[], [3, 4]],
    "mean_rgb": [[1, 2], "abc"],
    "scale_range": ["yes"],
    "act_type": [["swish"]],
    "max_level": ["7b"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_refuses_invalid_values(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config_fields({name: value})
    assert str(caught.value).startswith(f"hyperparameter {name} has the invalid value {value!r} (")


def test_lists_the_values_of_a_choice() -> None:
    with pytest.raises(ConfigError, match=r"invalid value 'gelu' \(expected one of swish, swish_native, relu6"):
        config_fields({"act_type": "gelu"})


@pytest.mark.parametrize("name", FIXED)
def test_refuses_switches_to_another_network(name: str) -> None:
    value = 2 if name == "min_level" else not FIXED[name]
    with pytest.raises(ConfigError, match=f"hyperparameter {name} is {value!r}, which is unsupported"):
        config_fields({name: value})
