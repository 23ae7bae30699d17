#!/bin/sh
# Installs what the SDK tests run on, into the target folder and folders node_modules: E2B's SDKs for Python and JavaScript and pytest, all in
# the versions that python/requirements.txt and js/package-lock.json name; the same of a year ago (year_old/); and a package for guests to
# install (wheels.txt). A second run does nothing and needs no network.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=${CARGO_TARGET_DIR:-$here/../../target}/sdk-venv

# The SDK needs Python 3.11, which is not everywhere the one called python3.
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
wanted=$here/python/requirements.txt
if ! cmp -s "$wanted" "$venv/installed" || ! "$venv/bin/python" -c 'import e2b' 2>/dev/null; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$wanted"
    cp "$wanted" "$venv/installed"
fi

"$here/../python-env.sh" "$here/year_old" e2b

for folder in "$here/js" "$here/year_old"; do
    wanted=$folder/package-lock.json
    modules=$folder/node_modules
    if ! cmp -s "$wanted" "$modules/installed"; then
        node=$("$here/../../scripts/node.sh")
        (cd "$folder" && PATH="$node:$PATH" npm ci --silent --no-audit --no-fund --ignore-scripts)
        cp "$wanted" "$modules/installed"
    fi
done

wanted=$here/wheels.txt
wheels=${CARGO_TARGET_DIR:-$here/../../target}/sdk-wheels
if ! cmp -s "$wanted" "$wheels.installed"; then
    rm -rf "$wheels"
    "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$wheels" --requirement "$wanted"
    cp "$wanted" "$wheels.installed"
fi
