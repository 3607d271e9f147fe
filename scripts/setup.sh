#!/usr/bin/env bash
# Sets the project up on a fresh Debian or Ubuntu machine: system packages, virtual environment, Python packages.
# Runs again only when what it depends on has changed. Used by `make demo`, `make test` and `make check`.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
STAMP=.setup-stamp

if [ -t 2 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold="" plain=""; fi
say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# --- system packages ------------------------------------------------------------------------------------------
# bubblewrap sandboxes the virtual phones; toybox and mksh are their Android userland; adb and umockdev are used by
# tests only.
missing=()
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v toybox >/dev/null || missing+=(toybox)
command -v mksh >/dev/null || missing+=(mksh)
command -v adb >/dev/null || missing+=(adb)
command -v umockdev-run >/dev/null || missing+=(umockdev)
ldconfig -p 2>/dev/null | grep -q 'libusb-1\.0\.so' || missing+=(libusb-1.0-0)
command -v "$PYTHON" >/dev/null || missing+=(python3)
if command -v "$PYTHON" >/dev/null && ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi

if ((${#missing[@]})); then
  as_root=""
  if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
  fi
  if [ "$as_root" = no ] || ! command -v apt-get >/dev/null; then
    say "these system packages are missing and may not be installed from here: ${missing[*]}"
    say "install them yourself for the full experience; without bubblewrap virtual phones run unsandboxed"
  else
    say "installing system packages: ${missing[*]}"
    if ! { $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq \
         --no-install-recommends "${missing[@]}"; } >/dev/null 2>.setup-apt.log; then
      say "apt-get could not install them; going on without (what it said is in .setup-apt.log)"
    else
      rm -f .setup-apt.log
    fi
  fi
fi

command -v "$PYTHON" >/dev/null || fail "Python 3.11 or newer is needed; install it or set PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$PYTHON is $("$PYTHON" -V 2>&1); MobiFarm needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"

# --- Python packages ------------------------------------------------------------------------------------------
wanted=$(cat pyproject.toml setup.py constraints.txt protos/mobifarm/v1/*.proto scripts/setup.sh | sha256sum)
if [ -x "$VENV/bin/mobifarm" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if [ ! -x "$VENV/bin/python" ]; then
  say "creating the virtual environment in $VENV"
  "$PYTHON" -m venv "$VENV"
fi
pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
quiet=(-qq)
if [ -t 2 ]; then quiet=(--progress-bar on); fi
say "installing Python packages (a few minutes the first time)"
# torch first and pinned, so that no later range draws another build of it.
"${pip[@]}" install "${quiet[@]}" -c constraints.txt torch >&2
"${pip[@]}" install "${quiet[@]}" -c constraints.txt -e '.[controller,models,dev]' >&2
"${pip[@]}" install "${quiet[@]}" -c constraints.txt -e '.[htp]' >&2 \
  || say "Qualcomm's HTP emulator cannot be installed here (it needs glibc 2.35): its tests will skip"
[ -x "$VENV/bin/mobifarm" ] || fail "the Python packages could not be installed; see the messages above"
printf '%s' "$wanted" >"$STAMP"
say "ready"
