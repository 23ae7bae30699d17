#!/bin/sh
# Installs moto, an S3 server, into the target folder, in the versions that requirements.txt names.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../python-env.sh" "$here" moto
