#!/bin/sh
# Make python:<version>-slim of Debian's packages, in place of the base that the Dockerfiles pin, for a machine that reaches
# no registry of images. Installs podman, buildah, runc and debootstrap where they are absent (Debian, as root). Does
# nothing if such an image is there.
set -eu

install() {
    command -v "$1" >/dev/null && return
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        echo "base image: $1 is not on PATH, and only root on Debian can install it here" >&2
        exit 1
    fi
    echo "base image: installing $1 from Debian"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
}
install podman
install buildah
install runc

release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

for version in 3.11 3.12 3.13 3.14; do
    if podman image exists "docker.io/library/python:$version-slim"; then
        echo "base image: docker.io/library/python:$version-slim is there"
        exit 0
    fi
done

install debootstrap
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
echo "base image: Debian $release with its Python, from $mirror"
debootstrap --variant=minbase --include=ca-certificates,python-is-python3,python3-venv "$release" "$root" "$mirror" \
    >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    exit 1
}
rm -f "$root.log"
# As in Docker's own slim images: neither package lists nor documentation.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
    "$root"/usr/share/locale/*
version=$(chroot "$root" python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
tar --create --directory "$root" --one-file-system . \
    | podman import --quiet --change CMD=python - "docker.io/library/python:$version-slim" >/dev/null
echo "base image: docker.io/library/python:$version-slim made"
