#!/bin/sh
# What tests/page needs beyond the virtual environment: Chromium with its driver, axe-core and Lighthouse.
# Idempotent; takes Chromium from Debian (as root) and the others from npm, and leaves out what cannot be had: tests
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

# The newest that runs on Debian's Node.js.
LIGHTHOUSE_VERSION=12.2.3
if ! [ -f build/page-test/lighthouse/node_modules/lighthouse/cli/index.js ]; then
    if command -v npm >/dev/null; then
        # In a folder of its own, or npm would take the repository for its project.
        mkdir -p build/page-test/lighthouse
        echo '{"private": true}' >build/page-test/lighthouse/package.json
        npm install --prefix build/page-test/lighthouse --silent --no-audit --no-fund --save-exact \
            "lighthouse@$LIGHTHOUSE_VERSION" >/dev/null \
            || echo "Lighthouse cannot be installed: its scores are not checked" >&2
    else
        echo "npm is not installed: Lighthouse's scores are not checked" >&2
    fi
fi
