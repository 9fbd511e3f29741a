#!/bin/sh
# Install Prometheus and promtool from Debian, without starting them as a service.
set -eu

if ! command -v apt-get >/dev/null; then
    echo "Prometheus is not on PATH and this is not Debian: install it from https://prometheus.io/download" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "Prometheus is not on PATH: as root, run apt-get install --no-install-recommends prometheus" >&2
        exit 1
    }
    sudo=sudo
fi
echo "installing Prometheus from Debian"
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends prometheus >/dev/null
# Ours is started by local-openfaas, on a port of its own.
if [ -d /run/systemd/system ]; then
    $sudo systemctl disable --now prometheus.service >/dev/null 2>&1 || true
fi
command -v prometheus promtool
