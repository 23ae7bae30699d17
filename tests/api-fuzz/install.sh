#!/bin/sh
# Installs schemathesis into the target folder, in the versions that requirements.txt names.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../python-env.sh" "$here" schemathesis
