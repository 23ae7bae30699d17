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
# A cell's packages have a folder of their own, which is the user's in a sandbox.
mkdir "$home/packages"
(cd "$root/templates/code-interpreter" &&
    HOME=$home PYTHONPATH=$home/packages MPLCONFIGDIR=$fonts PYTHONDONTWRITEBYTECODE=1 exec "$python" -m code_interpreter) &
server=$!
until curl --noproxy '*' -fsS -o "$home/health" http://127.0.0.1:49999/health 2>/dev/null; do
    kill -0 "$server" || exit 1
    sleep 0.2
done
status=0
"$@" || status=$?
kill "$server"
wait "$server" || true
exit "$status"
