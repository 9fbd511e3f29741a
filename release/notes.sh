#!/bin/sh
# Write the notes of a release vX.Y.Z, its part of CHANGELOG.md: sh release/notes.sh TAG. Links lead to the files of the tag.
set -eu
cd "$(dirname "$0")/.."
files=https://github.com/tailbound/tailbound/blob/$1
notes=$(sed -n "/^## ${1#v} - /,/^## /{/^## /d;p}" CHANGELOG.md | sed "s#](\([^():]*\))#]($files/\1)#g")
if [ -z "$notes" ]; then
    echo "CHANGELOG.md has no notes of $1" >&2
    exit 1
fi
printf '%s\n' "$notes"
