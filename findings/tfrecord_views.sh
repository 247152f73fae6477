#!/usr/bin/env bash
# The package tfrecord gives every record of a file in the same memory, and cuts zero bytes off lists of byte strings.
#
# Expected: reading a TFRecord file gives the records that were written, as with TensorFlow.
# Seen (tfrecord 1.14.6, numpy 2.4.6, protobuf 6.33.5), on files that the package wrote itself:
#   list(tfrecord_iterator(path)) of three records   three times the last one
#   a feature of two byte strings that end in zeros   b"a\0\0" and b"b\0" come back as b"a" and b"b"
#   a feature of one byte string                      comes back whole, and as bytes, not as an array
#   a file with an index and no shard                 reading begins at a record that NumPy's global generator draws
# Why it matters: the package is the usual way to read the data sets of TensorFlow's object detection in PyTorch. Images
#   and labels that are gathered before they are decoded are those of one record, and nothing is raised.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check tfrecord==1.14.6 numpy==2.4.6 protobuf==6.33.5 crc32c==2.7.1
cd "$work"
"$venv/bin/python" -W ignore - <<'PROGRAM'
import sys

import numpy as np
from tfrecord import TFRecordWriter, tfrecord_iterator, tfrecord_loader
from tfrecord.tools.tfrecord2idx import create_index

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


writer = TFRecordWriter("three.tfrecord")
for number in range(3):
    writer.write({"number": (number, "int")})
writer.close()
one_by_one = [bytes(record) for record in tfrecord_iterator("three.tfrecord")]
gathered = [bytes(record) for record in list(tfrecord_iterator("three.tfrecord"))]
check(f"read one by one: {len(set(one_by_one))} different records", len(set(one_by_one)) == 3)
check(f"gathered first: {len(set(gathered))} different record", gathered == 3 * one_by_one[-1:])

writer = TFRecordWriter("bytes.tfrecord")
writer.write({"two": ([b"a\0\0", b"b\0"], "byte"), "one": (b"a\0\0", "byte")})
writer.close()
(found,) = tfrecord_loader("bytes.tfrecord", None)
check(f"two byte strings: {found['two'].tolist()}", found["two"].tolist() == [b"a", b"b"])
check(f"one byte string: {found['one']!r}", bytes(found["one"]) == b"a\0\0")

create_index("three.tfrecord", "three.index")
orders = set()
for seed in range(10):
    np.random.seed(seed)
    orders.add(tuple(int(record["number"][0]) for record in tfrecord_loader("three.tfrecord", "three.index")))
check(f"orders with an index, for ten seeds: {sorted(orders)}", len(orders) == 3)
sys.exit(failed)
PROGRAM
