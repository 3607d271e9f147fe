#!/usr/bin/env bash
# Installs the browser that the tests of the live page drive. Says why and exits 1 where that cannot be had here.
set -euo pipefail

command -v chromium >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "the tests of the live page need Debian's chromium and apt-get" >&2; exit 1; }
as_root=""
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || { echo "run as root: apt-get update; apt-get install chromium" >&2; exit 1; }
  as_root="sudo -n"
fi
echo "installing system packages: chromium fonts-dejavu-core" >&2
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
