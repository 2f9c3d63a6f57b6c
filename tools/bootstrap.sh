#!/bin/sh
# Create .venv, install the plugin into it with its tests and window, compile the kernels.
# What the system lacks is named with its Debian package, in one line.
# EXTRAS names the optional parts: EXTRAS=test,gui,detector also installs PyTorch.
set -eu
cd "$(dirname "$0")/.."
venv=.venv

fail() { printf 'bootstrap: %s\n' "$1" >&2; exit 1; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.10; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
            2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    [ -n "$python" ] || fail 'Python 3.10, 3.11 or 3.12 is needed (Scipion pins its libraries to these): apt-get install python3'
    "$python" -c 'import tkinter' 2>/dev/null \
        || fail "$python has no tkinter, which Scipion imports even without a window: apt-get install python3-tk"
    "$python" -c 'import venv, ensurepip' 2>/dev/null \
        || fail "$python cannot make virtual environments: apt-get install python3-venv"
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
        || fail "the headers of $python are missing: apt-get install python3-dev"
    command -v "${CC:-cc}" >/dev/null 2>&1 || fail 'no C compiler was found: apt-get install gcc libc6-dev'
    printf 'int main(void) { return 0; }' | "${CC:-cc}" -x c -o /dev/null - 2>/dev/null \
        || fail 'the C compiler cannot link a program: apt-get install libc6-dev'
    "$python" -m venv "$venv" || { rm -rf "$venv"; fail "$python could not make $venv"; }
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[${EXTRAS:-test,gui,dask}]"
touch "$venv/.installed"
