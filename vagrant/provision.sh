#!/usr/bin/env bash
# Make a Debian 12 (or newer) machine a node of a flota swarm. Run it again at any time: it does what is missing.
#
#   provision.sh                                      install flota and start its daemon
#   provision.sh --init [--advertise-addr ADDRESS]    … and begin a swarm
#   provision.sh --join HOST[:PORT] --token TOKEN [--advertise-addr ADDRESS]
#                                                     … and join one (the token says as what)
#   --tokens DIRECTORY   with --init: write worker and manager tokens there; with --join: read them from there
#                        (--role worker|manager says which)
#   --wheels DIRECTORY   install from the wheels there, without an index (no network needed but for Debian packages)
#   --files              put everything in its place and start nothing: for making a machine's image, in its chroot
#
# Needs root. Installs into /opt/flota, /usr/local/bin/flota, /etc/systemd/system, /etc/sysctl.d.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(dirname "$here")
say() { printf '· %s\n' "$*"; }
fail() { printf 'provision: %s\n' "$*" >&2; exit 1; }

init="" join="" token="" tokens="" role=worker advertise="" wheels="" files=""
while [ $# -gt 0 ]; do
  case "$1" in
    --init) init=yes; shift ;;
    --files) files=yes; shift ;;
    --join|--token|--tokens|--role|--advertise-addr|--wheels)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case "$1" in
        --join) join=$2 ;; --token) token=$2 ;; --tokens) tokens=$2 ;;
        --role) role=$2 ;; --advertise-addr) advertise=$2 ;; --wheels) wheels=$2 ;;
      esac
      shift 2 ;;
    *) fail "unknown argument $1 (the top of this file says what there is)" ;;
  esac
done
[ "$(id -u)" = 0 ] || fail "needs root"
[ -z "$init" ] || [ -z "$join" ] || fail "--init and --join exclude each other"
case "$role" in worker|manager) ;; *) fail "invalid --role $role: worker or manager" ;; esac

mapfile -t wanted < <(grep -v '^#' "$source/setup/debian-packages.txt")
wanted+=(python3 python3-venv)
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
fi

# What is installed is known by what it was made from.
if [ -n "$wheels" ]; then
  made_from=$(cd "$wheels" && sha256sum -- *.whl | sha256sum | cut -c1-16)
else
  made_from=$(cd "$source" && find pyproject.toml uv.lock proto rpc manager worker overlay stacks templates node gateway cli \
    -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
fi
restart=""
if [ "$(cat /opt/flota/made-from 2>/dev/null)" != "$made_from" ]; then
  say "installing flota into /opt/flota"
  [ -x /opt/flota/bin/python ] || python3 -m venv /opt/flota
  if [ -n "$wheels" ]; then
    /opt/flota/bin/pip install --quiet --no-index --find-links "$wheels" --force-reinstall --no-deps "$wheels"/*.whl
  else
    # Built from a copy: a build leaves files in its tree.
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    tar -C "$source" --exclude=.git --exclude=.venv --exclude=.cache --exclude=__pycache__ -cf - . | tar -C "$copy" -xf -
    /opt/flota/bin/pip install --quiet --upgrade "$copy"
  fi
  /opt/flota/bin/python -m compileall -q /opt/flota/lib >/dev/null || true
  ln -sf /opt/flota/bin/flota /usr/local/bin/flota
  echo "$made_from" > /opt/flota/made-from
  restart=yes
fi

place() { # SOURCE TARGET: true when the target changed
  cmp -s "$1" "$2" && return 1
  install -D -m 644 "$1" "$2"
}
if place "$here/60-flota.conf" /etc/sysctl.d/60-flota.conf; then
  say "setting the kernel's parameters"
  # A container as a test machine may not set all of them; a real machine does at its next boot at the latest.
  sysctl -q -e -p /etc/sysctl.d/60-flota.conf 2>/dev/null || true
fi
if place "$here/flota.service" /etc/systemd/system/flota.service; then
  [ -n "$files" ] || systemctl daemon-reload
  restart=yes
fi
systemctl is-enabled -q flota || systemctl enable -q flota
if [ -n "$files" ]; then
  say "flota is installed"
  exit
fi
if [ -n "$restart" ] || ! systemctl is-active -q flota; then
  say "starting flota.service"
  systemctl restart flota
fi

state=$(flota info --format '{{.Swarm.LocalNodeState}}')
address=(${advertise:+--advertise-addr "$advertise"})
if [ "$state" = active ]; then
  say "this machine is in a swarm already"
elif [ -n "$init" ]; then
  say "beginning a swarm"
  flota swarm init "${address[@]}"
elif [ -n "$join" ]; then
  [ -n "$token" ] || token=$(cat "${tokens:?--join needs --token or --tokens}/$role")
  say "joining the swarm at $join"
  flota swarm join --token "$token" "${address[@]}" "$join"
fi
if [ -n "$init" ] && [ -n "$tokens" ]; then
  mkdir -p "$tokens"
  for one in worker manager; do
    (umask 077; flota swarm join-token -q "$one" > "$tokens/$one")
  done
fi
say "done: $(hostname) runs flota $(flota --version | sed 's/.* //')"
