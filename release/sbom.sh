#!/bin/sh
# Write what each distribution installs as CycloneDX JSON: release/sbom.sh BIN OUT. BIN has uv and cyclonedx-py.
# It installs the lock into an environment: only packages that are there tell their licenses and what needs them.
set -eu
bin=$1
out=$2
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for each in batching-watchdog autoscaler; do
    name=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$each/pyproject.toml")
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$each"/*/__init__.py)
    # cyclonedx-py reads no version but one that stands here.
    sed "s/^dynamic = \[\"version\"\]$/version = \"$version\"/" "$each/pyproject.toml" >"$work/pyproject.toml"
    "$bin/uv" venv --quiet --clear "$work/$name"
    "$bin/uv" pip install --quiet --python "$work/$name/bin/python" --no-deps --require-hashes \
        --requirements "$each/requirements.lock"
    "$bin/cyclonedx-py" environment --pyproject "$work/pyproject.toml" --mc-type application \
        --output-reproducible --output-format JSON --output-file "$out/$name.cdx.json" "$work/$name/bin/python"
done
