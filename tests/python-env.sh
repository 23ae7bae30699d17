#!/bin/sh
# tests/python-env.sh FOLDER MODULE: a Python environment in the target folder, named after FOLDER, with the versions that
# FOLDER/requirements.txt names; MODULE is what has to be importable. A second run does nothing and needs no network.
set -eu

folder=$(CDPATH='' cd -- "$1" && pwd)
module=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=${CARGO_TARGET_DIR:-$here/../target}/$(basename -- "$folder")-venv

python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "$0: no Python 3.11 or later: run scripts/install-deps.sh test" >&2
    exit 1
fi

# The list of what was wanted is put beside what was installed when all of it is there, so a run that was cut is made again. The
# import fails when the machine's Python was replaced by another version since.
wanted=$folder/requirements.txt
if ! cmp -s "$wanted" "$venv/installed" || ! "$venv/bin/python" -c "import $module" 2>/dev/null; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$wanted"
    cp "$wanted" "$venv/installed"
fi
