"""The mutation score of the verification, on a seeded checkpoint.

    python -m benchmarks.mutation > docs/mutation_score.md

How it is taken: `benchmarks.mutation_testing`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.mutation_testing import FACTOR, Outcome, Score, mutation_score
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.network.checkpoint import load_model
from verify.seeded import write_seeded_checkpoint
from verify.verification import versions

SIZE = 160  # the smallest multiple of 32 whose P7 is 2x2: on 1x1, a kernel shows its centre only
MAX_LISTED = 50
MEANINGS = {
    "caught": "the layer that the tensor belongs to, run alone on TensorFlow's input, is beyond its tolerance; after "
    "an exchange both layers are",
    "elsewhere": "mutations at which a layer is reported that neither computes with the tensor nor is made of one that "
    "does; only layers whose modules hold the tensor are run, unless `--everywhere` asks for all",
    "audit": "mutations that the comparison of the file's bits with the checkpoint reports",
    "margin": "error over tolerance; above 1 is caught",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, take the score, print it as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description="Take the mutation score.")
    parser.add_argument("--variant", default="d0", help="default: d0")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the image in pixels, default: %(default)s")
    parser.add_argument("--sample", type=int, help="take so many mutations only, drawn with seed 0")
    parser.add_argument("--everywhere", action="store_true", help="compare all layers at every mutation: slow")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes for machines")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # layers this small lose more by waiting for each other than they gain
    start = time.perf_counter()
    score = seeded_score(get_config(options.variant), options.size, options.sample, options.everywhere)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(score), indent=1) + "\n")
    given = sys.argv[1:] if arguments is None else arguments
    sys.stdout.write(
        to_markdown(score, " ".join(["python -m benchmarks.mutation", *given]), options.variant, options.size)
    )
    sys.stderr.write(f"{time.perf_counter() - start:.0f} s\n")


def seeded_score(config: EfficientDetConfig, size: int, sample: int | None = None, everywhere: bool = False) -> Score:
    """Write a seeded checkpoint, convert it, and take the score on normally distributed noise (1, size, size, 3)."""
    images = np.random.default_rng(0).standard_normal((1, size, size, 3), np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, converted = write_seeded_checkpoint(config, folder), folder / "model.pth"
        with open_checkpoint(checkpoint) as source:
            preparation = prepare(source)
            convert_checkpoint(preparation, converted)
            return mutation_score(preparation, load_model(converted), images, sample=sample, everywhere=everywhere)


def to_markdown(score: Score, command: str, variant: str, size: int) -> str:
    """Return a score as a page of the documentation."""
    return "\n\n".join(["# Mutation score", *_introduction(score, command, variant, size), *_tables(score)]) + "\n"


def _introduction(score: Score, command: str, variant: str, size: int) -> Iterator[str]:
    yield f"Written by `{command}`; do not edit."
    yield (
        f"A verification is worth what it notices. Every tensor of a converted {variant} (seeded checkpoint, image of "
        f"{size}x{size} pixels) is corrupted in turn, in two ways: its largest value is multiplied by {FACTOR}; the "
        "whole tensor is exchanged with the next one of its kind and shape."
    )
    yield "\n".join(f"* **{word}**: {meaning}." for word, meaning in MEANINGS.items())
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    yield f"Versions: {named}."


def _tables(score: Score) -> Iterator[str]:
    heading = ("mutations", "caught", "elsewhere", "audit", "score", "smallest margin")
    runs = _grouped((outcome.dtype, outcome.mutation.how, outcome) for outcome in score.outcomes)
    yield "## Score"
    yield _table(("dtype", "mutation", *heading), [[*key, *_row(group)] for key, group in runs.items()])
    yield "## Without any mutation"
    controls = [[c.dtype, str(c.layers), str(c.reported), f"{c.excess:.2g}"] for c in score.controls]
    yield _table(("dtype", "layers", "reported", "largest margin"), controls)
    yield "## Survivors"
    yield _listed([f"`{_described(o)}`: margin {o.excess:.2g} in {o.dtype}" for o in score.survivors])
    yield "## Left out"
    yield _listed([f"{count}: {reason}" for reason, count in score.excluded.items()])
    yield "## By kind of tensor, in float32"
    kinds = _grouped((o.kind, o.mutation.how, o) for o in score.outcomes if o.dtype == "float32")
    yield _table(("tensor", "mutation", *heading), [[*key, *_row(kinds[key])] for key in sorted(kinds)])


def _grouped(outcomes: Iterable[tuple[str, str, Outcome]]) -> dict[tuple[str, str], list[Outcome]]:
    groups: defaultdict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for one, other, outcome in outcomes:
        groups[one, other].append(outcome)
    return groups


def _row(outcomes: Sequence[Outcome]) -> list[str]:
    caught = sum(outcome.caught for outcome in outcomes)
    elsewhere, audited = sum(bool(o.elsewhere) for o in outcomes), sum(o.audited for o in outcomes)
    share, margin = caught / len(outcomes), min(outcome.excess for outcome in outcomes)
    return [*map(str, (len(outcomes), caught, elsewhere, audited)), f"{share:.1%}", f"{margin:.2g}"]


def _described(outcome: Outcome) -> str:
    return f"{' and '.join(outcome.mutation.tensors)}: {outcome.mutation.how}"


def _listed(lines: Sequence[str]) -> str:
    rest = [f"and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
    return "\n".join(f"* {line}" for line in [*lines[:MAX_LISTED], *rest]) or "None."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


if __name__ == "__main__":
    main()
