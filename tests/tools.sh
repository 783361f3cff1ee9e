#!/bin/sh
# Installs what the tests need besides Python packages: real clients that nobody here wrote.
# As root with apt-get it installs what is missing; else it says by name what is, and fails.
set -eu
cd "$(dirname "$0")"

missing=
for pair in chromium:chromium curl:curl node:nodejs npm:npm taskset:util-linux; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "edge: the tests need these; as root: apt-get install$missing" >&2
        exit 1
    fi
    echo "edge: installing$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } >&2
fi

# npm packages of a test stand in the package.json beside it.
for manifest in $(find . -name node_modules -prune -o -name package.json -print); do
    (cd "$(dirname "$manifest")" && npm install --silent --no-audit --no-fund)
done
