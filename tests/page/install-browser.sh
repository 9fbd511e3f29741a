#!/bin/sh
# What `make page-test` needs beyond the virtual environment: Chromium with its driver from Debian (as root), axe-core and
# Grafana's types of dashboards from npm. Idempotent; without apt or npm the tests that need them say so and are skipped.
set -eu
cd "$(dirname "$0")/../.."

if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            chromium chromium-driver fonts-dejavu-core >/dev/null
    else
        echo "install chromium and chromium-driver for the tests of the status page" >&2
    fi
fi

if ! command -v npm >/dev/null; then
    echo "npm is not installed: accessibility and dashboards' types are not checked" >&2
    exit 0
fi

AXE=axe-core-4.10.3
if ! [ -f build/page-test/axe.min.js ]; then
    mkdir -p build/page-test
    (
        cd build/page-test
        npm pack --silent "axe-core@${AXE#axe-core-}" >/dev/null &&
            tar -xzf "$AXE.tgz" --strip-components=1 package/axe.min.js package/LICENSE && rm "$AXE.tgz"
    ) || echo "npm cannot fetch $AXE: accessibility is not checked" >&2
fi

# In a folder of its own, or npm would take the repository for its project.
GRAFANA=build/page-test/grafana
if ! [ -f "$GRAFANA/node_modules/@grafana/schema/package.json" ]; then
    mkdir -p "$GRAFANA"
    echo '{"private": true}' >"$GRAFANA/package.json"
    npm install --prefix "$GRAFANA" --silent --no-audit --no-fund --save-exact \
        @grafana/schema@13.2.3 typescript@5.6.3 >/dev/null ||
        echo "npm cannot fetch Grafana's types: dashboards are not checked by them" >&2
fi
