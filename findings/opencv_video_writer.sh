#!/usr/bin/env bash
# OpenCV's video writer drops frames and cuts columns without an error, and a video's frame count may be a guess.
#
# Expected: what VideoWriter takes without an error is in the file; CAP_PROP_FRAME_COUNT is the number of frames.
# Seen (opencv-python-headless 5.0.0.93, and PyAV 18.1.0 to write a file with a variable frame rate):
#   VideoWriter of 63 x 47 pixels      isOpened() is True; the frames in the file have 62 x 46
#   a frame of another size, or grey   write() returns as always, with a warning in the log; the frame is not in the file
#   MKV, 10 frames within 1.4 s        CAP_PROP_FRAME_COUNT is 43: the length times the nominal rate of 30 per second
# Why it matters: an annotated video is shorter or smaller than the original, or a whole file is taken for a truncated
#   one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 av==18.1.0 numpy==2.4.6
cd "$work"
"$venv/bin/python" - <<'PROGRAM'
import sys
from fractions import Fraction

import av
import cv2
import numpy as np

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def write(name, size, frames):
    writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25, size)
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def read(name):
    """Return the announced number of frames, and the frames."""
    capture, frames = cv2.VideoCapture(name, cv2.CAP_FFMPEG), []
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    while (row := capture.read())[0]:
        frames.append(row[1])
    return count, frames


def write_at(name, milliseconds):
    with av.open(name, "w") as file:
        stream = file.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in milliseconds:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


print(f"OpenCV {cv2.__version__}, PyAV {av.__version__}")
print("  what is written")
write("odd.mp4", (63, 47), [np.zeros((47, 63, 3), np.uint8)] * 3)
check("63 x 47 becomes 62 x 46", {frame.shape for frame in read("odd.mp4")[1]} == {(46, 62, 3)})
whole, small, grey = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 32, 3), np.uint8), np.zeros((48, 64), np.uint8)
write("a.mp4", (64, 48), [whole, small, whole, grey, whole])
check("3 of 5 frames are there", len(read("a.mp4")[1]) == 3)
print("  what is read")
write_at("variable.mkv", [0, 33, 66, 100, 500, 900, 1300, 1333, 1366, 1400])
count, frames = read("variable.mkv")
check(f"{len(frames)} frames, {count:.0f} announced", (len(frames), count) == (10, 43))
sys.exit(failed)
PROGRAM
