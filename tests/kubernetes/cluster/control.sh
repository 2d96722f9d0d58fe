#!/usr/bin/env bash
# Stops and starts parts of the cluster that up.sh booted, for tests.
#   control.sh kubelet|kube-apiserver|… stop|start
#   control.sh node stop|start      all of it: what is on disk stays, processes, mounts and what is in memory go
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export PATH=$state/bin:$PATH
case "$1 $2" in
"node stop") "$here/down.sh" keep ;;
*" stop") stop "$1" ;;
*" start") "$here/up.sh" >/dev/null ;;
*) die "control.sh NAME stop|start" ;;
esac
