#!/usr/bin/env bash
# Renews .sqlx, the cache against which the store's statements are checked when there is no database: starts a private PostgreSQL
# in a temporary folder, applies the migrations, and compiles crates/store against it. Needs PostgreSQL's server binaries.
#
#   scripts/sqlx-prepare.sh           renew the cache
#   scripts/sqlx-prepare.sh --check   change nothing; fail when the cache is not what it would be
set -euo pipefail

cd "$(dirname "$0")/.."
case "${1-}" in
"" | --check) mode="${1-}" ;;
*)
    echo "usage: $0 [--check]" >&2
    exit 2
    ;;
esac

bin="${SANDBAR_POSTGRES_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)}"
if [ ! -x "$bin/initdb" ]; then
    echo "$0: no PostgreSQL server binaries found: install postgresql, or set SANDBAR_POSTGRES_BIN" >&2
    exit 1
fi

work="$(mktemp -d)"
# The server refuses to run as root.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups --no-new-privs env -C "$work" "$@"
    else
        "$@"
    fi
}
clean_up() {
    as_server "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
if [ "$(id -u)" = 0 ]; then chown postgres "$work"; fi

as_server "$bin/initdb" -D "$work/data" -U sandbar -A trust -E UTF8 --no-locale --no-sync >"$work/initdb.log" 2>&1 ||
    { cat "$work/initdb.log" >&2; exit 1; }
as_server "$bin/pg_ctl" -w -D "$work/data" -l "$work/data/log" \
    -o "-c listen_addresses='' -c unix_socket_directories='$work' -c fsync=off" start >/dev/null ||
    { cat "$work/data/log" >&2; exit 1; }
"$bin/createdb" -h "$work" -U sandbar sandbar
for migration in crates/store/migrations/*.sql; do
    "$bin/psql" -q -v ON_ERROR_STOP=1 -h "$work" -U sandbar -d sandbar -f "$migration"
done

# The macros write one file for each statement that they expand; only a changed source is expanded again.
mkdir "$work/cache"
touch crates/store/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$work/cache" DATABASE_URL="postgres://sandbar@localhost/sandbar?host=$work" \
    cargo check --quiet -p sandbar-store

if [ "$mode" = --check ]; then
    if ! diff -rq .sqlx "$work/cache"; then
        echo "$0: .sqlx is not what crates/store needs: run scripts/sqlx-prepare.sh and commit the result" >&2
        exit 1
    fi
    echo "$0: .sqlx is up to date ($(ls .sqlx | wc -l) statements)"
else
    mkdir -p .sqlx
    # New files first: a build that runs meanwhile finds what it needs.
    cp "$work"/cache/* .sqlx/
    for cached in .sqlx/*; do
        [ -e "$work/cache/$(basename "$cached")" ] || rm "$cached"
    done
    echo "$0: .sqlx holds $(ls .sqlx | wc -l) statements"
fi
