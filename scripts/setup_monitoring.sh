#!/usr/bin/env bash
# Puts Debian's Prometheus and Alertmanager into MobiFarm's cache for the tests and for trying the dashboards out.
# They are unpacked, not installed: the packages would start services on this machine. Needs no root.
# Says why and exits 1 where they cannot be had here.
set -euo pipefail

target="${MOBIFARM_CACHE:-$HOME/.cache/mobifarm}/monitoring"
has() { command -v "$1" >/dev/null || [ -x "$target/usr/bin/$1" ]; }
if has prometheus && has promtool && has prometheus-alertmanager && has amtool; then
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "the tests of monitoring need Debian's packages and apt-get" >&2
  exit 1
fi

mkdir -p "$target"
scratch=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
packages=(prometheus prometheus-alertmanager)
if ! apt-get download -qq "${packages[@]}" 2>apt.log; then
  # The lists may be old or empty; reading them anew needs root.
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo -n"
  if ! { $as_root apt-get update -qq && apt-get download -qq "${packages[@]}"; } 2>apt.log; then
    echo "Prometheus could not be downloaded: $(tail -n 1 apt.log)" >&2
    exit 1
  fi
fi
for package in ./*.deb; do
  dpkg-deb -x "$package" unpacked
done
mkdir -p "$target/usr/bin"
for program in prometheus promtool amtool; do
  mv "unpacked/usr/bin/$program" "$target/usr/bin/$program"
done

# Debian's Alertmanager reads its templates at a fixed place, which is shown to it alone.
share=/usr/share/prometheus/alertmanager
mkdir -p "$target/alertmanager"
mv unpacked/usr/bin/prometheus-alertmanager "$target/alertmanager/prometheus-alertmanager"
rm -rf "$target$share"
mkdir -p "$target$share"
cp -r "unpacked$share/." "$target$share"
cat >alertmanager <<END
#!/bin/sh
[ -e $share/default.tmpl ] && exec "$target/alertmanager/prometheus-alertmanager" "\$@"
exec bwrap --die-with-parent --dev-bind / / --tmpfs /usr/share \\
  --ro-bind "$target/usr/share/prometheus" /usr/share/prometheus "$target/alertmanager/prometheus-alertmanager" "\$@"
END
chmod +x alertmanager
if ! ./alertmanager --version >/dev/null 2>&1; then
  echo "Alertmanager needs bubblewrap and user namespaces here, or to be installed" >&2
  exit 1
fi
mv alertmanager "$target/usr/bin/prometheus-alertmanager"
