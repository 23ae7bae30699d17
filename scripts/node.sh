#!/bin/sh
# Prints the folder of a Node for what is built and tested with one, and installs it first where it is not there: the version that
# node-requirements.txt names, from Python's registry, since the distributions' own are old and all different. A second run needs no network.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${CARGO_TARGET_DIR:-$root/target}/node
wanted=$root/scripts/node-requirements.txt

# The list is put beside what was installed when all of it is there, so a run that was cut is made again.
if ! cmp -s "$wanted" "$venv/installed" || ! "$venv/bin/node" --version >/dev/null 2>&1; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$wanted" >&2
    cp "$wanted" "$venv/installed"
fi
printf '%s\n' "$venv/bin"
