#!/bin/sh
# What tests/page needs beyond the virtual environment: Chromium with its driver, axe-core, Lighthouse, and
# Grafana's types of dashboards. Idempotent; takes Chromium from Debian (as root) and the others from npm, and leaves out what cannot be had: tests
# then say so.
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

AXE_VERSION=4.10.3
if ! [ -f build/page-test/axe.min.js ]; then
    if command -v npm >/dev/null; then
        mkdir -p build/page-test
        (
            cd build/page-test
            npm pack --silent "axe-core@$AXE_VERSION" >/dev/null
            tar -xzf "axe-core-$AXE_VERSION.tgz" --strip-components=1 package/axe.min.js package/LICENSE
            rm "axe-core-$AXE_VERSION.tgz"
        )
    else
        echo "npm is not installed: accessibility is not checked" >&2
    fi
fi

# Lighthouse is the newest that runs on Debian's Node.js; each set is in a folder of its own, or npm would take the
# repository for its project.
from_npm() { # FOLDER A_FILE_OF_IT WHAT_IS_NOT_DONE_WITHOUT_IT PACKAGE...
    folder=build/page-test/$1 file=$2 without=$3
    shift 3
    [ -f "$folder/node_modules/$file" ] && return
    if command -v npm >/dev/null; then
        mkdir -p "$folder"
        echo '{"private": true}' >"$folder/package.json"
        npm install --prefix "$folder" --silent --no-audit --no-fund --save-exact "$@" >/dev/null && return
    fi
    echo "npm cannot install $*: $without" >&2
}

from_npm lighthouse lighthouse/cli/index.js "pages are not scored" lighthouse@12.2.3
from_npm grafana @grafana/schema/package.json "dashboards are not checked by Grafana's types" \
    @grafana/schema@13.2.3 typescript@5.6.3
