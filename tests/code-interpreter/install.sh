#!/bin/sh
# Installs what the code interpreter's tests run on, into the target folder and sdk_js/node_modules: E2B's code interpreter SDKs and pytest
# (sdk_python/requirements.txt, sdk_js/package-lock.json), and what the server under test needs (templates/code-interpreter/requirements.txt). A second
# run does nothing and needs no network.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$here/../..

# Named after their folders.
"$root/tests/python-env.sh" "$root/templates/code-interpreter" aiohttp
"$root/tests/python-env.sh" "$here/sdk_python" e2b_code_interpreter

wanted=$here/sdk_js/package-lock.json
modules=$here/sdk_js/node_modules
if ! cmp -s "$wanted" "$modules/installed"; then
    node=$("$root/scripts/node.sh")
    (cd "$here/sdk_js" && PATH="$node:$PATH" npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp "$wanted" "$modules/installed"
fi
