"""What was measured beside the peers, as tables in Markdown, and the bounds that it must meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PEERS = {"effdet": "effdet, eager", "libreyolo": "LibreYOLO, eager"}  # package -> its row that others are compared with
STAGES = ("pixels", "network", "detections")
LEAST_SPEED = 2.5  # x the images/s of each peer's eager path
MOST_START = 0.6  # x LibreYOLO's start-up


def bounds(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every bound with what was measured."""
    speed, start = results["milliseconds"], results["start_seconds"]
    best = min((name for name in speed if name.startswith("ours")), key=lambda name: speed[name]["file"])
    for peer in (name for name in PEERS.values() if name in speed):
        ratio = speed[peer]["file"] / speed[best]["file"]
        what = f"images/s of {best} / those of {peer}"
        yield {"what": what, "measured": ratio, "bound": f"at least {LEAST_SPEED}", "met": ratio >= LEAST_SPEED}
    if (peer := PEERS["libreyolo"]) in start:
        ratio = start[best] / start[peer]
        what = f"start-up of {best} / that of {peer}"
        yield {"what": what, "measured": ratio, "bound": f"at most {MOST_START}", "met": ratio <= MOST_START}


def markdown(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of all tables."""
    setting, speed = results["setting"], results["milliseconds"]
    packages = sorted({f"{name} {number}" for row in results["versions"].values() for name, number in row.items()})
    yield f"d0, {setting['size']} x {setting['size']} pixels; {setting['images']} images, {setting['rounds']} rounds,"
    yield f"{setting['cores']} cores, load {results['load'][0]:.1f} before, {results['load'][1]:.1f} after."
    yield f"{', '.join(packages)}."
    yield ""
    yield "| contestant | images/s, file to boxes | ms: file | pixels | network | boxes | start-up, s | AP |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, took in speed.items():
        parts = " | ".join(f"{took[stage]:.1f}" for stage in ("file", *STAGES))
        start = results["start_seconds"].get(name)
        shown = "" if start is None else f"{start:.2f}"
        yield f"| {name} | {1e3 / took['file']:.1f} | {parts} | {shown} | {results['ap'][name]:.2f} |"
    for peer, rows in results["exchanged"].items():
        yield from ("", f"| taken from {peer} | AP | difference |", "| --- | --- | --- |")
        yield from (f"| {what} | {value:.2f} | {value - rows['nothing']:+.2f} |" for what, value in rows.items())
    yield from ("", "| bound | measured | met |", "| --- | --- | --- |")
    for bound in results["bounds"]:
        yield f"| {bound['what']}: {bound['bound']} | {bound['measured']:.2f} | {'yes' if bound['met'] else 'NO'} |"
