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

# What tests drive, programs and a library: only these files, what their packages would start on this machine is not
# installed. Without a file its tests are skipped.
fetch_program() {  # PACKAGE FILE NAME: the package's file becomes .cache/NAME
  [ ! -x ".cache/$3" ] || return 0
  say "fetching ${2##*/} of Debian's $1, for tests"
  local scratch; scratch=$(mktemp -d)
  mkdir -p ".cache/${3%/*}"
  if (cd "$scratch" && { apt-get download -qq "$1" || { apt-get update -q && apt-get download -qq "$1"; }; }) \
      >"$scratch/log" 2>&1; then
    dpkg-deb --fsys-tarfile "$scratch"/"$1"_*.deb | tar -xO ".$2" >".cache/$3.part"
    chmod 0755 ".cache/$3.part" && mv ".cache/$3.part" ".cache/$3"
  else
    say "Debian's $1 cannot be had: tests that need it are skipped"
  fi
  rm -rf "$scratch"
}
fetch_program docker.io /usr/bin/docker docker/docker
fetch_program openssh-server /usr/sbin/sshd ssh/sshd
fetch_program prometheus /usr/bin/prometheus prometheus/prometheus
fetch_program libusrsctp2 "/usr/lib/$(dpkg-architecture -q DEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)/libusrsctp.so.2.0.0" \
  usrsctp/libusrsctp.so
for library in libfiu.so.1.1 fiu/fiu_run_preload.so fiu/fiu_posix_preload.so; do
  fetch_program libfiu0 "/usr/lib/$library" "fiu/${library##*/}"
done

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
