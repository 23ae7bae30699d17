#!/bin/sh
# Chromium in a network of its own, in which the platform's port is all that there is. A browser cuts off what it loads when the machine's
# network changes, and a platform that prepares networks for its guests changes it all the time. Needs root.
exec unshare --net --pid --fork --kill-child --mount-proc "$NODE" "$(dirname "$0")/browser.mjs" "$@"
