#!/bin/sh
# Builds the template `code-interpreter-v1` for every team of a platform: build.sh SANDBAR [OPTION...], with the options of
# `sandbar template build` that say which platform. `make code-interpreter` is this for the platform of `make up`.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
sandbar=$1
shift

"$here/fetch.sh"
# Kept once kernels wait for a first cell.
exec "$sandbar" template build "$here/recipe" --name code-interpreter-v1 --platform \
    --healthcheck 'curl -fsS http://127.0.0.1:49999/health' --healthcheck-timeout 1200 "$@"
