#!/bin/sh
# Makes sure that there is a Chromium for the tests of pages; `CHROMIUM` names one that is to be taken.
# usage: chromium.sh
set -eu

# A name that is given must be right: the tests would look for it, too.
if [ -n "${CHROMIUM:-}" ]; then
    if "$CHROMIUM" --version >/dev/null 2>&1; then
        exit 0
    fi
    echo "CHROMIUM is $CHROMIUM, and that does not start." >&2
    exit 1
fi

has_chromium() {
    for name in chromium chromium-browser google-chrome; do
        if "$name" --version >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

if has_chromium; then
    exit 0
fi

echo "No Chromium is there; installing Debian's, in which the pages that reports are get tested." >&2
by_hand="Install Chromium by hand (the package is called chromium on Debian) and start again, or name one in CHROMIUM."
if ! command -v apt-get >/dev/null; then
    echo "There is no apt-get here. $by_hand" >&2
    exit 1
fi
. "$(dirname "$0")/install.sh"
install_packages chromium || { echo "$by_hand" >&2; exit 1; }

if ! has_chromium; then
    echo "There is still no Chromium that starts. $by_hand" >&2
    exit 1
fi
