#!/bin/sh
# Brings the packages of requirements.txt for the guest (Debian 12: Python 3.11, x86-64): as wheels, compared with wheels.sha256, into wheels/, and
# as the guest is to have them into packages/. Nothing of them is run here, so this machine may have any Python with pip. A second run does nothing;
# without a network, bring wheels/.
#
#   ./fetch.sh           what the build needs
#   ./fetch.sh --renew   after a change of requirements.txt: writes wheels.sha256 anew
set -eu

cd "$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)"
# Where the guest's Python looks for what is not the distribution's.
there=/usr/local/lib/python3.11/dist-packages

are_there() { [ -d wheels ] && (cd wheels && sha256sum --check --strict --quiet ../wheels.sha256 >/dev/null 2>&1); }

# pip COMMAND [OPTION...], for the guest's Python instead of this one.
for_guest() {
    python3 -m pip --disable-pip-version-check "$@" --quiet --no-deps --only-binary :all: \
        --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_26_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux_2_12_x86_64 --platform manylinux2014_x86_64 --platform linux_x86_64 \
        --requirement requirements.txt
}

if [ "${1-}" != --renew ] && are_there && cmp -s wheels.sha256 packages/.of; then
    exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || {
    echo "$0: Python's pip is missing: apt-get install python3-pip" >&2
    exit 1
}
if [ "${1-}" = --renew ] || ! are_there; then
    rm -rf wheels wheels.new
    for_guest download --dest wheels.new
    if [ "${1-}" = --renew ]; then
        (cd wheels.new && sha256sum -- *.whl) >wheels.sha256
    fi
    mv wheels.new wheels
    are_there || {
        echo "$0: wheels/ is not what wheels.sha256 says:" >&2
        (cd wheels && sha256sum --check --strict --quiet ../wheels.sha256) >&2
    }
fi

rm -rf packages packages.new
PIP_ROOT_USER_ACTION=ignore for_guest install --target packages.new --no-index --find-links wheels --no-compile
# Programs begin with the path of this machine's Python; packages' own tests are many.
rm -rf packages.new/bin packages.new/share
find packages.new -type d -name tests -prune -exec rm -rf {} +
# Compiling takes minutes where the guest is emulated, so it is done here if this machine has that Python; else the recipe has the guest do so
# for what the server imports.
for python in python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        "$python" -m compileall -q -j 0 -s packages.new -p "$there" packages.new
        break
    fi
done
cp wheels.sha256 packages.new/.of
mv packages.new packages
