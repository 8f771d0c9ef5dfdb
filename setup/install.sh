#!/usr/bin/env bash
# Make a fresh Debian 12 machine able to run flota from this checkout: Debian packages, uv, the virtual environment.
# Says in one line each what it is doing; does nothing that is done already. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\033[2m· %s\033[0m\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "needs root: containers, namespaces and Debian packages are made here"
command -v apt-get >/dev/null || fail "needs Debian (apt-get was not found)"

missing=()
while read -r package; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done < <(grep -hv '^#' setup/debian-packages.txt setup/debian-packages-dev.txt)
if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  { apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
    || { tail -n 15 "$log" >&2; fail "apt-get could not install them (log: $log)"; }
  rm -f "$log"
fi

# Docker's command line, which the gateway's tests drive: only that file, Debian's daemon is not installed.
if [ ! -x .cache/docker/docker ]; then
  say "fetching the docker client of Debian's docker.io, for tests"
  mkdir -p .cache/docker
  scratch=$(mktemp -d)
  if (cd "$scratch" && { apt-get download -qq docker.io || { apt-get update -q && apt-get download -qq docker.io; }; }) \
      >"$scratch/log" 2>&1; then
    dpkg-deb --fsys-tarfile "$scratch"/docker.io_*.deb | tar -xO ./usr/bin/docker >.cache/docker/docker.part
    chmod 0755 .cache/docker/docker.part && mv .cache/docker/docker.part .cache/docker/docker
  else
    say "Debian's docker.io cannot be had: tests with docker's own client are skipped"
  fi
  rm -rf "$scratch"
fi

python=""
for candidate in python3 /usr/bin/python3 python3.11 python3.12 python3.13; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(command -v "$candidate"); break
  fi
done
[ -n "$python" ] || fail "needs Python 3.11 or newer"

if [ ! -x .cache/uv/bin/uv ]; then
  say "installing uv"
  "$python" -m venv .cache/uv
  .cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
fi

stamp=.cache/environment.$(cat uv.lock pyproject.toml | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ] || [ ! -x .venv/bin/flota ]; then
  say "installing Python packages as uv.lock pins them"
  .cache/uv/bin/uv sync --quiet --frozen --compile-bytecode --no-python-downloads --python "$python"
  .venv/bin/python -m compileall -q proto rpc manager worker overlay stacks templates node simulation gateway cli >/dev/null
  rm -f .cache/environment.*
  touch "$stamp"
fi
