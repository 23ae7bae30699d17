#!/bin/sh
# Runs a command for which a domain, and every name below it, is this machine.
#
#   tests/sdk/by-name.sh sbx.test COMMAND [ARGUMENT...]
#
# Needs root and dnsmasq. The command has a resolver of its own, in mount and process namespaces that end with it. The machine's is neither
# asked nor changed. Other names do not exist, but those of /etc/hosts.
set -eu

case ${1-} in
--apart)
    # In namespaces of our own, as their first process: when this one ends, all others do.
    shift
    domain=$1
    shift
    # One of loopback's addresses, which are many, so that several of these run side by side, and beside a resolver of the machine's.
    # shellcheck disable=SC2046 # two numbers
    address=$(printf '127.53.%d.%d' $(od -An -N2 -tu1 /dev/urandom))
    start=$(mktemp -d)
    printf 'nameserver %s\n' "$address" >"$start/resolv.conf"
    printf 'hosts: files dns\n' >"$start/nsswitch.conf"
    # Comes back when it listens.
    dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --listen-address="$address" --user=root --group=root \
        --pid-file="$start/pid" --log-facility=/dev/null --address="/$domain/127.0.0.1" --local="/$domain/"
    for file in resolv.conf nsswitch.conf; do
        mount --bind "$start/$file" "/etc/$file"
    done
    # What is mounted stays for as long as the namespace does.
    rm -r "$start"
    status=0
    "$@" || status=$?
    exit "$status"
    ;;
'')
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
*)
    exec unshare --mount --pid --fork --kill-child --mount-proc "$0" --apart "$@"
    ;;
esac
