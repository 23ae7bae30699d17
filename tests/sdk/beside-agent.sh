#!/bin/sh
# Runs a command beside a guest agent of its own, as E2B's SDKs expect to find one in their debug mode: on localhost:49983.
#
#   ENVD_VERSION=0.6.13 tests/sdk/beside-agent.sh target/debug/sandbar-guest-agent COMMAND [ARGUMENT...]
#
# Needs root. Agent and command share a network and a process namespace, so several of these run side by side, and whatever the
# tests leave running ends with them. The agent alone sees a machine of its own: users and groups, an ext4 disk on /home, empty
# /root, /run and /tmp, the rest read-only. The machine itself stays as it is, also when this is killed: mount namespaces and an
# unlinked disk leave nothing behind.
set -eu

user_id=1000

fresh() { mount -t tmpfs -o "$1" none "$2"; }

case ${1-} in
--apart)
    # In namespaces of our own, as their first process: when this one ends, all others do.
    shift
    agent=$1
    shift
    : "${ENVD_VERSION:?the version of the protocol that the agent speaks (sandbar_types::guest::ENVD_VERSION)}"
    ip link set lo up
    # Not /tmp, which may be memory.
    start=$(mktemp -d /var/tmp/sandbar-sdk.XXXXXX)
    trap 'umount -q "$start/home" || true; rm -rf --one-file-system "$start"' EXIT
    mkfifo "$start/said"
    mkdir "$start/home"
    truncate -s 512M "$start/disk"
    mkfs.ext4 -q -F "$start/disk"
    mount -o loop "$start/disk" "$start/home"
    rm "$start/disk"
    unshare --mount "$0" --agent "$agent" "$start/home" >"$start/said" &
    exec 3<"$start/said"
    read -r said <&3 || said='nothing'
    case $said in
    'listening on '*) ;;
    *)
        echo "$0: the agent did not start, it said: $said" >&2
        exit 1
        ;;
    esac
    # From here on the disk lives as long as the agent's view of it.
    umount "$start/home"
    rm -rf --one-file-system "$start"
    trap - EXIT

    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    # The host's part: the agent serves nobody without a token.
    curl --noproxy '*' -fsS -X POST "http://127.0.0.1:49983/init" \
        -d "{\"accessToken\":\"$token\",\"envVars\":{\"FOR_EVERYBODY\":\"from the sandbox\"}}"
    # Nothing of the caller's environment may lead an SDK elsewhere (E2B_*, proxies).
    status=0
    env -i PATH="$PATH" HOME="$HOME" LANG=C.UTF-8 E2B_DEBUG=true ENVD_VERSION="$ENVD_VERSION" ACCESS_TOKEN="$token" \
        "$@" || status=$?
    exit "$status"
    ;;
--agent)
    agent=$2 home=$3
    fresh mode=755 /run
    # The repository may be below /home.
    cp "$agent" /run/agent
    mount --bind "$home" /home
    fresh mode=700 /root
    fresh mode=1777 /tmp
    mkdir /run/full
    fresh size=64k,mode=1777 /run/full
    cat >/run/passwd <<END
root:x:0:0:root:/root:/bin/bash
user:x:$user_id:$user_id::/home/user:/bin/bash
END
    cat >/run/group <<END
root:x:0:
crew:x:1234:user
user:x:$user_id:
END
    mount --bind /run/passwd /etc/passwd
    mount --bind /run/group /etc/group
    mkdir -m 755 /home/user
    # The rest is the machine's own.
    mount -o remount,bind,ro /
    chown "$user_id:$user_id" /home/user
    exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /run/agent --gateway 127.0.0.1 --no-ready-push --no-system-changes --state-file /run/state.json
    ;;
'')
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
*)
    # The terminal's interrupt reaches everybody; anything else that ends unshare ends the first process, and so all.
    exec unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --apart "$@"
    ;;
esac
