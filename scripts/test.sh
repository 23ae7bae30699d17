#!/usr/bin/env bash
# `make test`: installs what is missing, then runs every check and every test, and says what each phase took.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $(id -u) -ne 0 ]]; then
    echo "make test: run it as root: the tests start microVMs, make networks and mount disks" >&2
    exit 1
fi

phase() {
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    "$@"
    printf '=== %s: %d s\n' "$name" "$((SECONDS - start))"
}

# Advisories need a database from the network: where cargo-deny or the network is missing, the rest is checked all the same.
licences() {
    cargo xtask licences
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny --locked check bans licenses sources
        cargo deny --locked check advisories || [[ -n ${SANDBAR_OFFLINE:-} ]]
    else
        echo "cargo-deny is not installed: advisories were not checked"
    fi
}

# The pages' own checks; how they behave in a browser is an end-to-end test.
dashboard() {
    local node
    node=$(scripts/node.sh)
    (cd dashboard && PATH="$node:$PATH" npm run --silent check && PATH="$node:$PATH" npm test --silent)
}

phase "install" scripts/install-deps.sh run build test
# Rust may have been installed just now.
export PATH="$HOME/.cargo/bin:$PATH"

# E2B's SDKs, from their registries the first time.
phase "sdks" tests/sdk/install.sh

# Those for the code interpreter, and what its server runs on.
phase "code interpreter" tests/code-interpreter/install.sh

# An outside fuzzer for the API, the same way.
phase "fuzzer" tests/api-fuzz/install.sh

# An S3 server to keep snapshots in, too.
phase "S3 server" tests/object-storage/install.sh

phase "format" cargo fmt --all --check
phase "licences" licences
phase "guest binaries" cargo xtask guest
phase "dashboard" cargo xtask dashboard
phase "dashboard: types, format, units" dashboard
phase "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
phase "query cache" scripts/sqlx-prepare.sh --check
# The binaries under test come with the tests; a `cargo build` of their own would compile many dependencies again, with other features.
phase "build" cargo test --workspace --all-targets --locked --no-run
phase "tests" "${CARGO_TARGET_DIR:-target}/debug/with-postgres" \
    cargo test --workspace --all-targets --locked --no-fail-fast
echo
printf 'all phases passed in %d s\n' "$SECONDS"
