#!/usr/bin/env bash
# Vagrant copies this script alone onto the machine; the one that does the work stands in the synced sources.
exec /flota/vagrant/provision.sh "$@"
