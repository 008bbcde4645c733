# To be sourced: install_packages PACKAGE... with apt-get, as root or through sudo.

install_packages() {
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif command -v sudo >/dev/null; then
        as_root=sudo
    else
        echo "Installing $* needs root, and there is no sudo." >&2
        return 1
    fi
    $as_root apt-get update -q && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
