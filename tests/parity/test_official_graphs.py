"""Stored graphs of official configurations: run, they give the official outputs, and show what no variable shows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from support.graphs import write_meta
from support.official_cases import SIZE, OfficialCase, case_folders
from support.quick import mostly_slow
from verify.reference.graph import GraphReference
from verify.reference.graph_network import Outline
from verify.reference.official.config_file import read_config_file
from verify.reference.official.hparams import read_hparams
from verify.results.verification import GraphResult
from verify.subjects.subject import load_converted, prepare_reference
from verify.verification import Settings, run_graph

pytest.importorskip("tensorflow")

TOLERANCE = 1e-5  # as for the built-in reference: float32 rounding
# Without `config.yaml` they become another network: no variable shows what they are.
HIDDEN = (
    *("act_hswish", "act_relu", "act_relu6", "conv_after_down", "d0_backbone_lite0", "fpncfg_attn", "survival_b0"),
    "wm_attn",
)
OTHER_FORMS = ("base", "full_conv", "fpn_qufpn", "min_level2", "conv_bn_act", "no_bn_resample", "wm_channel_fastattn")


QUICK = ("wm_attn",)


@pytest.fixture
def case(request: pytest.FixtureRequest, shared: Path, seeded: ModuleType) -> OfficialCase:
    return OfficialCase(case_folders(shared)[request.param], seeded)


def write_case(case: OfficialCase, prefix: Path) -> Path:
    """Write a checkpoint with the graph of a configuration, and without its `config.yaml`."""
    hparams = read_hparams(read_config_file(case.config_file))
    return write_meta(prefix, hparams, case.variables("raw"), case.variables("ema"))


@pytest.mark.parametrize("case", mostly_slow([*HIDDEN, *OTHER_FORMS], QUICK), indirect=True)
def test_gives_the_official_outputs(case: OfficialCase, tmp_path: Path) -> None:
    hparams = read_hparams(read_config_file(case.config_file))
    write_case(case, tmp_path / "model")
    outline = Outline(hparams.backbone_name, tuple(hparams.levels), (SIZE, SIZE))
    graph = GraphReference(tmp_path / "model.meta", outline, case.variables("ema"))
    error = case.error(graph.outputs(case.images))
    print(f"{case.folder.name}: {error:.1e}")
    assert error <= TOLERANCE


def result_without_config(case: OfficialCase, folder: Path) -> GraphResult:
    """Convert a checkpoint that has a graph but no `config.yaml`, and run the graph."""
    with open_checkpoint(write_case(case, folder / "model")) as source:
        convert_checkpoint(prepare(source, hparams=f"image_size={SIZE}"), folder / "model.pth")
        model = load_converted(folder / "model.pth")
        result = run_graph(model, prepare_reference(model, source), Settings())
    assert result is not None
    assert result.reason == ""
    return result


@pytest.mark.parametrize("case", ["base"], indirect=True)
def test_what_is_assumed_rightly_passes(case: OfficialCase, tmp_path: Path) -> None:
    """Negative control of the one below."""
    assert result_without_config(case, tmp_path).passed


@pytest.mark.parametrize("case", mostly_slow(HIDDEN, QUICK), indirect=True)
def test_what_is_assumed_wrongly_fails(case: OfficialCase, tmp_path: Path) -> None:
    result = result_without_config(case, tmp_path)
    errors = [output.measures.max_over_rms for output in result.outputs]
    print(f"{case.folder.name}: {min(errors):.1e} to {max(errors):.1e}")
    assert not result.passed  # not at every output: where the coarsest level is one pixel, little may differ
    assert max(errors) > 0.1
