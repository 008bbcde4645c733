#!/bin/sh
# Makes sure that there is an adapter to run on: a GPU with its driver, or else Mesa's software driver.
# usage: adapter.sh COMMAND..., where `COMMAND devices --json` lists what there is
set -eu

# OpenGL alone does not count: it is there for old machines, and its drivers are the least tested.
has_adapter() {
    "$@" devices --json 2>/dev/null | grep -Eq '"backend":"(vulkan|metal|dx12)"'
}

if has_adapter "$@"; then
    exit 0
fi

echo "No adapter is there; installing Mesa's Vulkan drivers, among them one that needs no GPU." >&2
packages="libvulkan1 mesa-vulkan-drivers"
by_hand="Install a Vulkan driver by hand (the packages are called $packages on Debian and Ubuntu) and start again."
if ! command -v apt-get >/dev/null; then
    echo "There is no apt-get here. $by_hand" >&2
    exit 1
fi
. "$(dirname "$0")/install.sh"
# shellcheck disable=SC2086
install_packages $packages || { echo "$by_hand" >&2; exit 1; }

if ! has_adapter "$@"; then
    echo "There is still no adapter; this is what was found:" >&2
    "$@" devices >&2 || true
    exit 1
fi
