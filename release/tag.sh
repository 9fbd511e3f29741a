#!/bin/sh
# Compare a tag vX.Y.Z with every version that it would publish: sh release/tag.sh TAG. Names those that differ.
set -eu
cd "$(dirname "$0")/.."

status=0
compare() {
    if [ "v$2" != "$tag" ]; then
        echo "$1: version $2 is not that of the tag $tag" >&2
        status=1
    fi
}

tag=$1
for package in batching-watchdog/batching_watchdog autoscaler/slo_autoscaler lab/tailbound_lab; do
    compare "$package/__init__.py" "$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$package/__init__.py")"
done
chart=deploy/helm/slo-autoscaler/Chart.yaml
for key in version appVersion; do
    compare "$chart, $key" "$(sed -n "s/^$key: *//p" "$chart" | tr -d \")"
done
exit "$status"
