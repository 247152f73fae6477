"""A whole verification with TensorFlow's own graph: it runs by itself, and one that computes something else fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.hparams.fields import hparams_of
from converter.locate import open_checkpoint
from effdet_torch.config import EfficientDetConfig
from support.graphs import ResidualHeads, edit_graph, write_meta, write_tf1_exports, write_tf2_export
from support.sources import small_config
from support.variable_shapes import random_variables
from verify.errors import GraphError, ParityError
from verify.report.content.verdict import headline
from verify.results.verification import Verification
from verify.verification import Settings, verify_model

pytest.importorskip("tensorflow")

CONFIG = small_config(image_size=(64, 96), head_repeats=2)
VARIABLES, AVERAGES = random_variables(CONFIG, seed=1), random_variables(CONFIG, seed=2)
QUICK = Settings(image_size=(64, 64), dtypes=("float32",), modes=("cumulative",))
ASSUMED = {"act_type": "swish", "survival_prob": None}
ALL_OUTPUTS = "class head P3, P4, P5; box head P3, P4, P5"


@dataclass(frozen=True)
class Written:
    """A checkpoint and the file that was converted from it, which assumes its settings."""

    source: Path
    model: Path

    def verified(self, **settings: Any) -> Verification:
        with open_checkpoint(self.source) as source:
            return verify_model(self.model, source, replace(QUICK, **settings))


def converted(source: Path, model: Path, assumed: Mapping[str, Any] | None = ASSUMED) -> Written:
    with open_checkpoint(source) as opened:
        convert_checkpoint(prepare(opened, hparams=hparams_of(CONFIG)), model)
    content = torch.load(model, weights_only=True)
    content["metadata"].pop("assumed", None)
    if assumed is not None:
        content["metadata"]["assumed"] = dict(assumed)
    torch.save(content, model)
    return Written(source, model)


# Form of the source -> how to write one whose graph has a config or a network of its own, and return the source.
WRITERS: Mapping[str, Callable[..., Path]] = {
    "model.meta": lambda folder, config, *network: write_meta(folder / "m", config, VARIABLES, AVERAGES, *network),
    "TF1": lambda folder, config, *network: write_tf1_exports(folder / "m", config, VARIABLES, *network)[0],
    "TF2": lambda folder, config, *network: write_tf2_export(folder / "m", config, VARIABLES, *network),
}


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param("model.meta", "m.meta", marks=pytest.mark.slow),
        pytest.param("TF1", "saved_model.pb", marks=pytest.mark.slow),
        ("TF2", "saved_model.pb"),
    ],
)
def test_the_graph_runs_by_itself(form: str, name: str, tmp_path: Path) -> None:
    result = converted(WRITERS[form](tmp_path, CONFIG), tmp_path / "model.pth").verified(require="graph")
    assert result.passed
    assert result.graph is not None
    assert [(x.tf, x.level) for x in result.graph.outputs] == [
        (f"{head}_net/{head}-predict", level) for head in ("class", "box") for level in (3, 4, 5)
    ]
    assert result.graph.image_size == (64, 96)
    assert (result.claim.kind, result.claim.text) == ("graph ran", f"TensorFlow's own graph ({name}), which ran")


@pytest.mark.parametrize(
    ("form", "config", "network"),
    [
        ("model.meta", replace(CONFIG, activation="relu6"), ()),
        pytest.param("TF2", CONFIG, (ResidualHeads,), marks=pytest.mark.slow),
        pytest.param("TF1", replace(CONFIG, fusion="attn"), (), marks=pytest.mark.slow),
    ],
    ids=["activation", "residual heads", "fusion"],
)
def test_another_architecture_fails_at_its_outputs(
    form: str, config: EfficientDetConfig, network: tuple[Any, ...], tmp_path: Path
) -> None:
    """No variable shows these: all layers agree with the reference, which is built from the file's own settings."""
    written = converted(WRITERS[form](tmp_path, config, *network), tmp_path / "model.pth")
    result = written.verified()
    assert not result.passed
    assert result.failures == ()
    assert headline(result).endswith(f"computes other outputs: {ALL_OUTPUTS}.")
    assert result.graph is not None
    assert min(output.measures.max_over_rms for output in result.graph.failures) > 2e-3
    assert result.claim.kind == "assumed"

    alone = written.verified(graph=False)
    assert alone.passed
    assert alone.claim.text == "assumptions about 2 settings (act_type, survival_prob; effdet-inspect shows the values)"
    assert not replace(alone, required="config").passed


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint that has a `.meta`, and the converted file."""
    folder = tmp_path_factory.mktemp("original")
    converted(WRITERS["model.meta"](folder, CONFIG), folder / "model.pth", None)
    return folder


@pytest.fixture
def written(original: Path, tmp_path: Path) -> Written:
    """A copy that a test may change."""
    copytree(original, tmp_path, dirs_exist_ok=True)
    return Written(tmp_path / "m", tmp_path / "model.pth")


def test_a_file_written_before_evidence_was_recorded(written: Written) -> None:
    assert written.verified().claim.kind == "graph ran"
    assert written.verified(graph=False).claim.kind == "not recorded"


def _train(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "FusedBatchNormV3":
            node.attr["is_training"].b = True


def test_a_training_graph_is_not_run(written: Written, tmp_path: Path) -> None:
    edit_graph(tmp_path / "m.meta", tmp_path / "m.meta", _train)
    result = written.verified()
    assert result.passed
    assert result.claim.kind == "not recorded"
    assert result.graph is not None
    assert result.graph.reason.startswith("m.meta is a training graph: read, not run")
    with pytest.raises(GraphError, match=r"a training graph: read, not run.*leave --graph out"):
        written.verified(graph=True)


def test_no_graph(written: Written, tmp_path: Path) -> None:
    (tmp_path / "m.meta").unlink()
    result = written.verified()
    assert result.graph is not None
    assert (result.passed, result.graph.reason) == (True, "no inference graph belongs to the source m")
    with pytest.raises(GraphError, match="no inference graph belongs to the source m; leave --graph out"):
        written.verified(graph=True)


def test_the_graph_of_another_model_is_an_error(written: Written, tmp_path: Path) -> None:
    other = small_config(image_size=(64, 96), fpn_channels=16)
    values = random_variables(other)
    write_meta(tmp_path / "other", other, values, values)
    (tmp_path / "other.meta").rename(tmp_path / "m.meta")
    with pytest.raises(ParityError, match=r"m.meta and the checkpoint are different models.*--no-graph"):
        written.verified()
    assert written.verified(graph=False).passed
