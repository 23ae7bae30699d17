#!/bin/sh
# Runs a command beside a code interpreter's server of its own, on the port that E2B's SDKs ask in their debug mode. Where the guest agent
# has to be there as well (../sdk/beside-agent.sh):
#
#   beside-agent.sh AGENT beside-server.sh PYTHON COMMAND [ARGUMENT...]
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
python=$1
shift

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
# Nothing is written into the source tree. The fonts that matplotlib finds are found once.
fonts=$(dirname -- "$python")/../matplotlib
(cd "$root/templates/code-interpreter" &&
    HOME=$home MPLCONFIGDIR=$fonts PYTHONDONTWRITEBYTECODE=1 exec "$python" -m code_interpreter) &
server=$!
curl --noproxy '*' -fsS -o "$home/health" --retry 600 --retry-connrefused --retry-delay 1 http://127.0.0.1:49999/health
status=0
"$@" || status=$?
kill "$server"
wait "$server" || true
exit "$status"
