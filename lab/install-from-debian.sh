#!/bin/sh
# Install packages from Debian, without starting them as services: install-from-debian.sh PACKAGE...
set -eu

if ! command -v apt-get >/dev/null; then
    echo "not on PATH: $*, and this is not Debian: install each from its project's page" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "not on PATH: $*: as root, run apt-get install --no-install-recommends $*" >&2
        exit 1
    }
    sudo=sudo
fi
echo "installing from Debian: $*"
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" >/dev/null
# local-openfaas starts Prometheus itself, on a port of its own.
if [ "$*" = prometheus ] && [ -d /run/systemd/system ]; then
    $sudo systemctl disable --now prometheus.service >/dev/null 2>&1 || true
fi
