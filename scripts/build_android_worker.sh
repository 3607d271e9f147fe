#!/usr/bin/env bash
# Builds agent/htp_worker for Android (arm64-v8a) with the NDK and gathers it, with every library that it needs, in a
# folder that can be pushed to a Snapdragon phone (docs/npu.md):
#
#   ANDROID_NDK_HOME=~/Android/Sdk/ndk/27.2.12479018 scripts/build_android_worker.sh [FOLDER]
#
# NOT RUN YET beyond its checks: where it was written there is no NDK and no Maven. The sources were built and tested
# on Linux (tests/integration/test_htp_workers.py); the layout of onnxruntime-android's archive was looked at in a copy.
# Untried: the toolchain's settings, the other two archives, linking, and whatever a phone says to it.
set -euo pipefail

fail() { echo "build_android_worker: $*" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$root/build/android-worker}")
downloads="${MOBIFARM_CACHE:-$HOME/.cache/mobifarm}/android-worker"
maven=https://repo1.maven.org/maven2
abi=arm64-v8a

ndk="${ANDROID_NDK_HOME:-${ANDROID_NDK_ROOT:-}}"
if [ -z "$ndk" ] && [ -d "${ANDROID_HOME:-}/ndk" ]; then
  ndk=$(find "$ANDROID_HOME/ndk" -mindepth 1 -maxdepth 1 -type d | sort -V | tail -n 1)
fi
toolchain="$ndk/build/cmake/android.toolchain.cmake"
[ -n "$ndk" ] || fail "the Android NDK is missing: install release 27 or later and set ANDROID_NDK_HOME to its folder"
[ -e "$toolchain" ] || fail "$ndk is no Android NDK: set ANDROID_NDK_HOME to the folder that has build/cmake"
for program in cmake curl unzip sha1sum sha256sum; do
  command -v "$program" >/dev/null || fail "$program is missing: install it with your system's package manager"
done

# --- the libraries ----------------------------------------------------------------------------------------------
mkdir -p "$downloads"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fetch() { curl --fail --location --silent --show-error --connect-timeout 30 --max-time 1800 "$@"; }
while read -r group artifact version sum; do
  name="$artifact-$version.aar"
  address="$maven/${group//.//}/$artifact/$version/$name"
  if [ ! -e "$downloads/$name" ]; then
    echo "downloading $name" >&2
    fetch --output "$scratch/$name" "$address" || fail "$name could not be downloaded from Maven Central"
    mv "$scratch/$name" "$downloads/$name"
  fi
  found=$(sha256sum "$downloads/$name" | cut -d ' ' -f 1)
  if [ "$sum" = unknown ]; then
    # Tells damage, not a forgery: the sum comes from where the file does.
    published=$(fetch "$address.sha1") || fail "Maven Central tells no SHA-1 of $name"
    [ "${published:0:40}" = "$(sha1sum "$downloads/$name" | cut -d ' ' -f 1)" ] \
      || fail "$downloads/$name is damaged: delete it and try again"
    echo "not pinned yet, for agent/htp_worker/packages.txt: $group $artifact $version $found" >&2
  elif [ "$sum" != "$found" ]; then
    fail "$downloads/$name has another SHA-256 than agent/htp_worker/packages.txt says: delete it and try again"
  fi
  unzip -q -o "$downloads/$name" -d "$scratch/$artifact" || fail "$downloads/$name is no archive"
done < <(grep -v '^#' "$root/agent/htp_worker/packages.txt")
onnxruntime="$scratch/onnxruntime-android"
[ -e "$onnxruntime/headers/onnxruntime_cxx_api.h" ] && [ -e "$onnxruntime/jni/$abi/libonnxruntime.so" ] \
  || fail "onnxruntime-android has no headers or no library for $abi where they were expected"

# --- the program ------------------------------------------------------------------------------------------------
# Its own C++ library is linked in: only C crosses to ONNX Runtime. 16 KiB pages: some phones since Android 15.
cmake -S "$root/agent/htp_worker" -B "$scratch/build" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DANDROID_ABI="$abi" -DANDROID_PLATFORM=android-29 -DANDROID_STL=c++_static \
  -DANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES=ON -DONNXRUNTIME_INCLUDE_DIR="$onnxruntime/headers" \
  -DONNXRUNTIME_LIBRARY="$onnxruntime/jni/$abi/libonnxruntime.so" >"$scratch/cmake.log" 2>&1 \
  && cmake --build "$scratch/build" >>"$scratch/cmake.log" 2>&1 \
  || { tail -n 40 "$scratch/cmake.log" >&2; fail "the worker does not build; please report the lines above"; }

# --- the folder -------------------------------------------------------------------------------------------------
mkdir -p "$folder"
cp "$scratch/build/mobifarm-htp-worker" "$onnxruntime/jni/$abi/libonnxruntime.so" "$folder"
cp "$scratch"/onnxruntime-android-qnn/jni/"$abi"/*.so "$scratch"/qnn-runtime/jni/"$abi"/*.so "$folder"
for library in libonnxruntime_providers_qnn.so libQnnHtp.so libQnnSystem.so; do
  [ -e "$folder/$library" ] || fail "$library is in none of the three archives; please report this"
done
cp "$root/agent/htp_worker/start.sh" "$folder"
chmod 755 "$folder/mobifarm-htp-worker" "$folder/start.sh"
echo "$folder"
