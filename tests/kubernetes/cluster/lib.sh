# Shared by up.sh and down.sh: where everything is. Each path can be set from
# outside; both scripts must see the same values.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KEYWARD_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keyward-cluster} # built binaries: worth keeping
state=${KEYWARD_CLUSTER_STATE:-/var/lib/keyward-cluster}                        # everything else on disk: thrown away by down.sh
run=${KEYWARD_CLUSTER_RUN:-/run/keyward-cluster}                                # sockets and pid files
kubelet_dir=${KEYWARD_CLUSTER_KUBELET_DIR:-/var/lib/kubelet}            # where CSI drivers expect it
driver_state=${KEYWARD_CLUSTER_DRIVER_STATE:-/run/keyward} # where our CSI driver keeps what outlives it
bridge=${KEYWARD_CLUSTER_BRIDGE:-kube0}
node_name=${KEYWARD_CLUSTER_NODE:-node1}
pod_net=${KEYWARD_CLUSTER_POD_NET:-10.244.0}       # /24: pods
service_net=${KEYWARD_CLUSTER_SERVICE_NET:-10.96.0} # /24: services
node_ip=$pod_net.1                      # the bridge's address: the node's own
api_port=${KEYWARD_CLUSTER_API_PORT:-6443}
etcd_port=${KEYWARD_CLUSTER_ETCD_PORT:-2379}
ctr_socket=$run/containerd.sock

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# A process is known by its id and its start time, so that a pid file that has
# outlived its process never points at someone else's.
started_at() { # PID
	local line
	line=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	set -- ${line##*) }
	[ "$1" != Z ] || return 1
	echo "${20}"
}
alive() { # NAME
	local pid at
	read -r pid at 2>/dev/null <"$run/$1.pid" || return 1
	[ "$(started_at "$pid")" = "$at" ]
}
start() { # NAME COMMAND...
	local name=$1 pid
	shift
	if alive "$name"; then return 0; fi
	setsid "$@" >>"$state/log/$name.log" 2>&1 </dev/null &
	pid=$!
	echo "$pid $(started_at "$pid")" >"$run/$name.pid"
}
stop() { # NAME [SECONDS]
	local pid at left=$((${2:-20} * 10))
	if alive "$1"; then
		read -r pid at <"$run/$1.pid"
		kill "$pid" || true
		while alive "$1" && [ $((left -= 1)) -gt 0 ]; do sleep 0.1; done
		if alive "$1"; then kill -9 "$pid" || true; fi
	fi
	rm -f "$run/$1.pid"
}
wait_for() { # SECONDS WHAT COMMAND...: WHAT may be a process that start began
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		if [ -e "$run/$what.pid" ] && ! alive "$what"; then
			tail -5 "$state/log/$what.log" >&2
			die "$what ended; see $state/log"
		fi
		[ $SECONDS -lt $end ] || die "gave up waiting for $what; see $state/log"
		sleep 0.2
	done
}
