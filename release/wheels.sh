#!/bin/sh
# Build sdist and wheel of both distributions: release/wheels.sh BIN OUT. BIN has `python` with build and uv.
# Two builds of one commit are the same: every file has the time SOURCE_DATE_EPOCH, by default the commit's.
set -eu
bin=$1
out=$2
# Outside of a clone: 1980, before which no zip file can be.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}"
export SOURCE_DATE_EPOCH LC_ALL=C
rm -rf "$out"

for each in batching-watchdog autoscaler; do
    export UV_CONSTRAINT="$PWD/$each/build.lock" # another backend would write other bytes
    # The wheel from the sdist, as an installer would: it holds all that is needed.
    "$bin/python" -m build --quiet --installer uv --outdir "$out" "$each" >/dev/null
done
