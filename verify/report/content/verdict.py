"""The first section of every report: the verdict, what it rests on, and what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import product
from pathlib import PurePath

from effdet_torch.file_format import untrained
from effdet_torch.terminal.text import counted
from verify.report.content.detections.checks import checks
from verify.report.content.layers import by_layer, part, runs
from verify.report.content.section import Section
from verify.report.content.text import listed, percent
from verify.results.claim import Requirement
from verify.results.detections import DetectionResult
from verify.results.verification import GraphResult, Mode, Precision, Verification

# --require -> what to do where the claim is weaker.
ADVICE: Mapping[Requirement, str] = {
    "graph": "Pass a SavedModel, a frozen graph, or a checkpoint with the .meta of an inference graph as --reference.",
    "config": "Put config.yaml beside the checkpoint or state its settings with --hparams, and convert it again.",
}
# Modes whose failure says nothing about the converted model -> which network failed, and what it was compared with.
OTHER_NETWORKS: Mapping[Mode, tuple[str, str]] = {
    "fused": ("The fused network", "the converted model"),
    "exported": ("The exported file", "its reference"),
}
# Equal outputs are claimed only after these.
COMPLETE: Set[tuple[Mode, Precision]] = set(product(("isolated", "cumulative", "fused"), ("float64", "float32")))


def verdict_section(verification: Verification) -> Iterator[Section]:
    """Yield the first section of a report."""
    lines = (f"{subject(verification)}; {extent(verification)}.", *advice(verification))
    verdict, failed = verification.verdict, not verification.passed
    yield Section(headline(verification), lines, failed=failed, verdict=verdict, basis=basis(verification))


def headline(verification: Verification) -> str:
    """Return the verdict in one sentence."""
    detection, graph = verification.detection, verification.graph
    if verification.audit is not None and (unusable := verification.audit.unusable):
        more = f" (and {len(unusable) - 1} more)" if unusable[1:] else ""
        first = f"{unusable[0].tensor}: {unusable[0].finding}"
        return f"The converted file holds values that no network can use: {first}{more}."
    failures = verification.failures
    if failures and failures[0].mode not in OTHER_NETWORKS:
        return "The two networks do not compute the same outputs."
    if verification.audit is not None and not verification.audit.passed:
        return "The converted file does not hold the checkpoint's weights."
    if failures:
        return "{} does not compute the outputs of {}.".format(*OTHER_NETWORKS[failures[0].mode])
    if graph is not None and not graph.passed:
        return f"TensorFlow's own graph ({graph.name}) computes other outputs: {_listed_outputs(graph)}."
    if detection is not None and not (verification.layers and detection.passed):
        return _detection_headline(detection)
    if verification.audit is None and graph is not None and graph.outputs:
        return f"The outputs are those of {graph.name}; tensors and layers were not compared with it."
    return _agreement(verification) if verification.layers else "Nothing was compared."


def basis(verification: Verification) -> str:
    """Return what the verdict rests on; it stands beside the verdict."""
    if verification.audit is not None and verification.audit.unusable:
        return headline(verification)
    detection, texts = verification.detection, [verification.claim.text]
    if detection is not None and detection.comparison is not None:
        texts.append(f"the other model on {detection.comparison.claim.text}")
    texts += other_input_size(verification)
    weaker = f"; --require {verification.required} asks for more"
    return f"rests on {', '.join(texts)}{'' if verification.claim_suffices else weaker}"


def other_input_size(verification: Verification) -> Iterator[str]:
    """Yield the size of the network input of an evaluation where `--image-size` made it another than the model's."""
    used = verification.settings.get("image_size")
    own = verification.model.get("metadata", {}).get("config", {}).get("image_size", used)
    if verification.detection is not None and used is not None and list(used) != list(own):
        yield "image size {1}x{0} by --image-size, not the model's {3}x{2}".format(*used, *own)


def advice(verification: Verification) -> Iterator[str]:
    """Yield which parts of the network hold no knowledge, and how a verdict can rest on more, where it must."""
    if text := untrained(verification.model.get("metadata", {})):
        yield f"{text}."
    if not verification.claim_suffices:
        yield ADVICE[verification.required or "config"]
    detection = verification.detection
    if detection is not None and detection.parity is not None and not detection.parity.passed:
        source = detection.parity.source
        yield f"If {source} was made with another profile than {detection.profile}, pass that one with --profile."


def subject(verification: Verification) -> str:
    """Return what was compared with what."""
    model = PurePath(str(verification.model.get("path", "the converted model"))).name
    if not verification.reference and verification.detection is not None:
        comparison = verification.detection.comparison
        return model if comparison is None else f"{model} and {comparison.model.get('path', 'another model')}"
    return f"{model} against {verification.reference.get('name', 'the TensorFlow reference')}"


def extent(verification: Verification) -> str:
    """Return how much was compared, and how long it took."""
    layers, detection = len(by_layer(verification.layers)), verification.detection
    compared = f"{counted(layers, 'layer')} in {counted(len(runs(verification)), 'run')}"
    if not layers and detection is not None:
        compared = f"{counted(detection.images, 'image')} of {detection.split}"
    return f"{compared}, {verification.seconds:.1f} s"


def _agreement(verification: Verification) -> str:
    """Return what agrees."""
    ran = [(run.mode, run.dtype) for run in runs(verification)]
    if set(ran) >= COMPLETE:
        return "The two networks compute the same outputs."
    if ran == [("exported", "int8")]:
        return (
            "The exported file computes roughly the outputs of its reference, as 8 bits allow; AP shows what it costs."
        )
    if all(mode == "exported" for mode, _ in ran):
        return "The exported file computes the outputs of its reference."
    parts = (listed(names) for names in zip(*ran, strict=True))
    return f"All layers agree in what was run: {', '.join(parts)} only."


def _listed_outputs(graph: GraphResult) -> str:
    """Return the outputs that differ: "class P3, P4; box P3"."""
    heads = {part(output): [x for x in graph.failures if part(x) == part(output)] for output in graph.failures}
    levels = {head: ", ".join(f"P{x.level}" for x in found if x.level is not None) for head, found in heads.items()}
    return "; ".join(f"{head.lower()} {which}".rstrip() for head, which in levels.items())


def _detection_headline(detection: DetectionResult) -> str:
    if failed := [check.name for check in checks(detection) if not check.passed]:
        return f"The detections differ from what was expected. Failed: {', '.join(failed)}."
    if detection.compared:
        return "The detections are as expected."
    if detection.comparison is not None:
        aps = " and ".join(percent(metrics["AP"]) for metrics in (detection.metrics, detection.comparison.metrics))
        return f"Two models were evaluated on the same images: AP {aps}. Neither was compared with TensorFlow."
    return "The model was evaluated; nothing was compared."
