#!/usr/bin/env bash
# Installs what the tests on real USB need beyond `make setup`: an emulator, a busybox that needs no library, udev.
# They fetch their kernel themselves. Says why and exits 1 where that cannot be had here.
set -euo pipefail

command -v apt-get >/dev/null || { echo "the tests on USB need Debian's packages and apt-get" >&2; exit 1; }
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
dpkg -s busybox-static >/dev/null 2>&1 || missing+=(busybox-static)
[ -x /lib/systemd/systemd-udevd ] || missing+=(udev)
command -v adb >/dev/null || missing+=(adb)
# apt's lists are needed for the kernel's package, too, which is downloaded and not installed.
if ((${#missing[@]} == 0)) && apt-cache show linux-image-amd64 >/dev/null 2>&1; then
  exit 0
fi

as_root=""
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || { echo "run as root: apt-get update; apt-get install ${missing[*]}" >&2; exit 1; }
  as_root="sudo -n"
fi
$as_root apt-get update -qq
if ((${#missing[@]})); then
  echo "installing system packages: ${missing[*]}" >&2
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
