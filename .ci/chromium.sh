#!/usr/bin/env bash
# The browser of the end-to-end tests: nothing where there is one, else Debian's package, which only root can install.
set -euo pipefail
if [ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "expected a Chromium for the end-to-end tests, found none; install the package chromium, or set CHROMIUM=/path/to/chromium" >&2
  exit 2
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium >/dev/null
