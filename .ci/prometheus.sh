#!/usr/bin/env bash
# Prints the folder that holds `promtool` and `prometheus`, and fetches both if they are missing.
# The package is unpacked instead of installed, because its installation starts a daemon.
set -euo pipefail
cd "$(dirname "$0")/.."

root=${CARGO_TARGET_DIR:-target}/prometheus
bin=$root/usr/bin
if ! [ -x "$bin/promtool" ] || ! [ -x "$bin/prometheus" ]; then
  mkdir -p "$root"
  fresh=$(mktemp -d "$root/fetch.XXXXXX")
  trap 'rm -rf "$fresh"' EXIT
  # As root, apt drops to a user of its own, which must be able to write the package.
  chmod 755 "$fresh"
  ( cd "$fresh"
    apt-get -o APT::Sandbox::User=root download -qq prometheus >&2 2>/dev/null ||
      { apt-get update -qq >&2 && apt-get -o APT::Sandbox::User=root download -qq prometheus >&2; }
    dpkg -x prometheus_*.deb unpacked )
  # The programs are moved one by one, so that another run never sees half of one.
  mkdir -p "$bin"
  for program in promtool prometheus; do
    mv -f "$fresh/unpacked/usr/bin/$program" "$bin/$program"
  done
fi
(cd "$bin" && pwd)
