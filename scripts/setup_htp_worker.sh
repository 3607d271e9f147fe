#!/usr/bin/env bash
# Fetches what the tests build the worker in C++ (agent/htp_worker) with: a compiler and CMake, which are installed,
# and the headers of ONNX Runtime and nlohmann/json, which are unpacked into MobiFarm's cache from Debian's testing
# distribution (its stable one has ONNX Runtime's without plugins). The library is the one of Python's onnxruntime.
# Says why and exits 1 where they cannot be had here.
set -euo pipefail

fail() { echo "$*" >&2; exit 1; }
target="${MOBIFARM_CACHE:-$HOME/.cache/mobifarm}/htp-worker"
suite=forky
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null \
  || fail "the worker's tests need Debian's packages and apt-get"

missing=()
command -v c++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
if ((${#missing[@]})); then
  as_root=""
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "run as root: apt-get update; apt-get install ${missing[*]}"
    as_root="sudo -n"
  fi
  echo "installing system packages: ${missing[*]}" >&2
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ -e "$target/usr/include/onnxruntime/onnxruntime_cxx_api.h" ] && [ -d "$target/usr/include/nlohmann" ]; then
  exit 0
fi
# The mirror that this machine uses, whatever its release; the lists stay apart from the system's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
[ -n "$mirror" ] || fail "ONNX Runtime's headers come from Debian, and this machine has no package source of Debian"
mkdir -p "$target"
scratch=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir -p state/lists/partial cache/archives/partial unpacked
touch status
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
signed=""
if [ -e "$keyring" ]; then signed="[signed-by=$keyring] "; fi
echo "deb $signed$mirror $suite main" >sources.list
cat >apt.conf <<END
Dir::Etc::sourcelist "$scratch/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$scratch/state";
Dir::State::status "$scratch/status";
Dir::Cache "$scratch/cache";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Retries "2";
Acquire::Languages "none";
END
if ! { apt-get -c apt.conf update -qq && apt-get -c apt.conf download -qq libonnxruntime-dev nlohmann-json3-dev; } \
  >apt.log 2>&1; then
  fail "ONNX Runtime's headers could not be downloaded: $(tail -n 1 apt.log)"
fi
for package in ./*.deb; do
  dpkg-deb -x "$package" unpacked
done
rm -rf "$target/usr"
mkdir -p "$target/usr/share"
mv unpacked/usr/include "$target/usr/include"
mv unpacked/usr/share/cmake "$target/usr/share/cmake"
