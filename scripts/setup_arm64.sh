#!/usr/bin/env bash
# Installs what virtual phones with an arm64 processor need beyond `make setup`: qemu's user-mode emulator.
# Says why and exits 1 where that cannot be had here.
set -euo pipefail

[ "$(uname -m)" != aarch64 ] || exit 0
if command -v qemu-aarch64-static >/dev/null || command -v qemu-aarch64 >/dev/null; then exit 0; fi
command -v apt-get >/dev/null || { echo "arm64 phones need Debian's package qemu-user-static" >&2; exit 1; }

as_root=""
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || { echo "run as root: apt-get update; apt-get install qemu-user-static" >&2; exit 1; }
  as_root="sudo -n"
fi
echo "installing the system package qemu-user-static" >&2
$as_root apt-get update -qq
# The package itself tells a machine with systemd to run arm64 programs with it; virtual phones do not need that.
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends qemu-user-static >/dev/null
