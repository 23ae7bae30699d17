#!/bin/sh
# Installs what Sandbar needs from the distribution's packages, and the Rust toolchain: only what is missing, so that a second run
# changes nothing and needs no network. For Debian 12 and later, Ubuntu 22.04 and later.
#
#   scripts/install-deps.sh [run] [build] [test]      (no argument: all three)
#
#   run     what a host needs: QEMU, PostgreSQL's server binaries, the tools that make images and networks
#   build   a C toolchain, Rust, and what Node comes with
#   test    what the tests use besides
set -eu

say() { printf 'install-deps: %s\n' "$*"; }
die() { printf 'install-deps: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null 2>&1 || die "run this as root, or install sudo: $*"
        sudo "$@"
    fi
}

apt_get() {
    # The lock: a new machine often upgrades itself in the background during its first minutes.
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@"
}

# The package lists are fetched once, and only when something is to be installed.
lists_are_fresh=no
refresh_lists() {
    [ "$lists_are_fresh" = yes ] && return
    say "fetching package lists"
    apt_get update
    lists_are_fresh=yes
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Of the packages given, those that are missing.
missing_of() {
    for name in "$@"; do
        is_installed "$name" || printf '%s ' "$name"
    done
}

install() {
    wanted=$(missing_of "$@")
    [ -n "$wanted" ] || return 0
    refresh_lists
    say "installing: $wanted"
    # shellcheck disable=SC2086 # a list of words
    apt_get install --no-install-recommends $wanted
}

# Debian's PostgreSQL packages create and start a cluster on a machine that has none. Sandbar wants the binaries: it starts a
# private server of its own, or uses the one in DATABASE_URL.
install_postgresql() {
    for bin in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$bin" ] && return
    done
    no_cluster=/etc/postgresql-common/createcluster.d/sandbar.conf
    as_root mkdir -p "${no_cluster%/*}"
    # Taken back at once: what the machine's owner installs later is not our business.
    trap 'as_root rm -f "$no_cluster"' EXIT
    printf 'create_main_cluster = false\n' | as_root tee "$no_cluster" >/dev/null
    install postgresql
    as_root rm -f "$no_cluster"
    trap - EXIT
}

# Debian's package of the registry starts a server on port 5000. The tests want the program: each starts its own.
install_registry() {
    ! command -v docker-registry >/dev/null 2>&1 || return 0
    as_root mkdir -p /etc/systemd/system
    # For systemd a unit that is this is masked: not to be started by anybody. What the machine's owner has put there stays.
    unit=/etc/systemd/system/docker-registry.service
    [ -e "$unit" ] || as_root ln -s /dev/null "$unit"
    install docker-registry
}

# A certificate authority and a name server to order certificates from. Debian's package of the latter starts a server on
# port 53; the tests want the program. Not every release has the authority: the tests of it then say that they did not run.
install_acme() {
    as_root mkdir -p /etc/systemd/system
    unit=/etc/systemd/system/knot.service
    is_installed knot || [ -e "$unit" ] || as_root ln -s /dev/null "$unit"
    install knot knot-dnsutils
    is_installed pebble && return
    refresh_lists
    if [ -n "$(apt-cache madison pebble 2>/dev/null)" ]; then
        install pebble
    else
        say "NOT INSTALLED: pebble, which $release does not have: certificates of a public authority will not be tested"
    fi
}

qemu_package() {
    case $(dpkg --print-architecture) in
        amd64) echo qemu-system-x86 ;;
        arm64) echo qemu-system-arm ;;
        *) die "no support for $(dpkg --print-architecture) machines" ;;
    esac
}

# Debian 12's own QEMU (7.2) emulates several times more slowly than 10.0, which is in its backports.
install_qemu() {
    package=$(qemu_package)
    if [ "$release" != debian-12 ]; then
        install "$package"
        return
    fi
    version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || true)
    if is_installed "$package" && dpkg --compare-versions "$version" ge 1:10; then
        return
    fi
    refresh_lists
    if ! suites | grep -q '|bookworm-backports$'; then
        mirror=$(suites | sed -n 's/|bookworm$//p' | head -n 1)
        say "adding the suite bookworm-backports, for QEMU 10"
        printf '%s\n' 'Types: deb' "URIs: ${mirror:-http://deb.debian.org/debian}" 'Suites: bookworm-backports' \
            'Components: main' 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' |
            as_root tee /etc/apt/sources.list.d/sandbar-backports.sources >/dev/null
        apt_get update
    fi
    say "installing: $package from bookworm-backports"
    # Packages of QEMU that are there already must be of one version with it, or apt refuses.
    siblings=$(dpkg-query -W -f '${db:Status-Status} ${binary:Package} ${source:Package}\n' 2>/dev/null |
        awk '$1 == "installed" && $3 == "qemu" { print $2 }')
    # shellcheck disable=SC2086 # a list of words
    apt_get install --no-install-recommends -t bookworm-backports "$package" $siblings
}

# Debian's archives as this machine has them: "<uri>|<suite>".
suites() {
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets --format '$(REPO_URI)|$(CODENAME)' 'Created-By: Packages' 'Component: main' | grep -v security || true
}

# E2B's SDK, which the tests use, needs Python 3.11. Ubuntu 22.04 has it beside its own 3.10.
install_python() {
    install python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || install python3.11 python3.11-venv
}

# Its tests start servers of their own: the package's is not wanted.
install_redis() {
    command -v redis-server >/dev/null 2>&1 && return
    install redis-server
    if command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
        as_root systemctl disable --now redis-server
    fi
}

# Debian's; Ubuntu's package of that name is a reference to a store of another kind, and the tests then use what CHROMIUM names.
install_chromium() {
    case $release in
        debian-*) install chromium ;;
        *) [ -x "${CHROMIUM:-/usr/bin/chromium}" ] || say "set CHROMIUM to a Chromium or Chrome: the dashboard's tests need one" ;;
    esac
}

install_rust() {
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    if ! command -v cargo >/dev/null 2>&1; then
        say "installing Rust by rustup, into ${CARGO_HOME:-$HOME/.cargo}"
        installer=$(mktemp)
        curl --proto '=https' --tlsv1.2 -fsSL --retry 3 -o "$installer" https://sh.rustup.rs
        sh "$installer" -y -q --no-modify-path --profile minimal --default-toolchain none
        rm -f "$installer"
    fi
    command -v rustup >/dev/null 2>&1 || return 0
    # The repository's rust-toolchain.toml says which; inside it, any cargo command installs what is missing.
    toolchain=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    if ! rustup run "$toolchain" cargo --version >/dev/null 2>&1; then
        say "installing the Rust toolchain $toolchain"
        rustup toolchain install "$toolchain" --profile minimal --component rustfmt --component clippy
    fi
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    die "this script knows Debian and Ubuntu; elsewhere install by hand: QEMU 8 or later (system emulator), PostgreSQL 15 or later" \
        "(server), mmdebstrap, xfsprogs, e2fsprogs, nftables, iproute2, xz, zstd, a C compiler and Rust"
fi
# shellcheck disable=SC1091 # the machine's
release=$(. /etc/os-release && printf '%s-%s' "$ID" "${VERSION_ID:-}")

[ $# -gt 0 ] || set -- run build test
for group in "$@"; do
    case $group in
        run)
            install ca-certificates debian-archive-keyring apt dpkg mmdebstrap xfsprogs e2fsprogs mount util-linux nftables iproute2 \
                procps xz-utils zstd gzip
            install_qemu
            install_postgresql
            ;;
        build)
            install ca-certificates curl git gcc libc6-dev make pkg-config python3 python3-venv
            install_rust
            ;;
        test)
            install ca-certificates cpio dnsmasq-base git openssl busybox-static
            install_redis
            install_registry
            install_acme
            install_python
            install_chromium
            ;;
        *) die "unknown group $group: run, build and test exist" ;;
    esac
done
say "nothing is missing for: $*"
