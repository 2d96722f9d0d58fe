#!/usr/bin/env bash
# Boots a real single-node Kubernetes on this machine, as root, from package
# registries only: Debian packages for CNI and tools, Go modules for etcd, Kubernetes,
# containerd and runc (Debian's are too old for this Kubernetes). Prints the kubeconfig's path when the node is Ready.
# Run again at any time: what is already there is left as it is.
#   up.sh           build if needed, boot, wait
#   up.sh build     only the packages and the binaries (to fill a cache)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(containernetworking-plugins iptables gcc libc6-dev libseccomp-dev pkg-config
	busybox-static curl iproute2 openssl procps mount)

install_packages() {
	local missing=() p
	for p in "${packages[@]}"; do
		[[ $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) == *" installed" ]] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]}"
	apt-get -qq update
	# No service may start by itself: this script starts what it needs.
	local policy=/usr/sbin/policy-rc.d made= ok=1
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		made=1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >"$state/log/apt.log" 2>&1 || ok=
	[ -z "$made" ] || rm -f $policy
	[ -n "$ok" ] || { tail -20 "$state/log/apt.log" >&2; die "apt-get install"; }
}

build() {
	local version minor flags key p
	version=$(sed -nE 's|^(require)?[[:space:]]+k8s\.io/kubernetes (v[^ ]+)$|\2|p' "$here/go.mod")
	[ -n "$version" ] || die "no version of k8s.io/kubernetes in go.mod"
	minor=${version#v1.}
	minor=${minor%%.*}
	key=$( (cd "$here" && cat go.mod go.sum kube/*.go pause/*.go runtime/*/go.* && go version) | sha256sum | cut -c1-16)
	bin=$cache/$version-$key
	[ ! -e "$bin/done" ] || return 0
	say "building Kubernetes $version, containerd and runc (seven to twelve minutes on two cores the first time)"
	mkdir -p "$bin"
	flags="-s -w"
	for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
	done
	# Memory for time: the compiler spends a good part of its own on collecting garbage.
	export GOGC=${GOGC:-400}
	(cd "$here" && export CGO_ENABLED=0 &&
		go build -mod=readonly -trimpath -buildvcs=false -ldflags "$flags" -o "$bin/kube" ./kube &&
		go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/pause" ./pause) >"$state/log/build.log" 2>&1 ||
		{ tail -20 "$state/log/build.log" >&2; die "go build"; }
	local containerd=github.com/containerd/containerd/v2
	(cd "$here/runtime/containerd" && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false \
		-ldflags "-s -w -X $containerd/version.Version=$(sed -nE "s|^(require)?[[:space:]]*$containerd v([^ ]+).*|\2|p" go.mod)" -o "$bin/" \
		$containerd/cmd/containerd $containerd/cmd/containerd-shim-runc-v2 $containerd/cmd/ctr &&
		cd ../runc && CGO_ENABLED=1 go build -mod=readonly -trimpath -buildvcs=false -tags seccomp \
			-ldflags "-s -w" -o "$bin/runc" github.com/opencontainers/runc) >>"$state/log/build.log" 2>&1 ||
		{ tail -20 "$state/log/build.log" >&2; die "go build of the container runtime"; }
	for p in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl cluster-dns etcd; do
		ln -sf kube "$bin/$p"
	done
	touch "$bin/done"
}

certificates() {
	pki=$state/pki
	[ ! -e "$pki/done" ] || return 0
	rm -rf "$pki"
	mkdir -p "$pki"
	(
		umask 077
		cd "$pki"
		key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null ||
			openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null; }
		key ca
		openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj /CN=keyward-cluster-ca -out ca.crt \
			-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
		cert() { # NAME SUBJECT USAGE [SAN]
			key "$1"
			printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n%s\n' \
				"$3" "${4:+subjectAltName=$4}" >"$1.ext"
			openssl req -new -key "$1.key" -subj "$2" |
				openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
			rm "$1.ext"
		}
		cert apiserver /CN=kube-apiserver serverAuth "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$node_ip,IP:$service_net.1"
		cert kubelet-serving "/O=system:nodes/CN=system:node:$node_name" serverAuth "DNS:$node_name,IP:$node_ip,IP:127.0.0.1"
		cert apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet clientAuth
		cert admin /O=system:masters/CN=admin clientAuth
		cert controllers /CN=system:kube-controller-manager clientAuth
		cert scheduler /CN=system:kube-scheduler clientAuth
		cert proxy /CN=system:kube-proxy clientAuth
		cert kubelet "/O=system:nodes/CN=system:node:$node_name" clientAuth
		openssl genrsa -out sa.key 2048 2>/dev/null
		openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
		for who in admin controllers scheduler proxy kubelet; do
			cat >"$who.kubeconfig" <<-Y
				apiVersion: v1
				kind: Config
				current-context: it
				clusters:
				- name: it
				  cluster:
				    server: https://127.0.0.1:$api_port
				    certificate-authority-data: $(base64 -w0 ca.crt)
				users:
				- name: $who
				  user:
				    client-certificate-data: $(base64 -w0 "$who.crt")
				    client-key-data: $(base64 -w0 "$who.key")
				contexts:
				- name: it
				  context: {cluster: it, user: $who}
			Y
		done
		touch done
	)
}

network() {
	# The node's address sits on the pods' bridge, so that nothing depends on
	# what interfaces the machine has. kubelet refuses a loopback address.
	# The address is fixed. Otherwise the bridge takes the lowest address of its ports, which changes as pods come and
	# go, and running pods send to a gateway address that no longer exists until their neighbour entry expires.
	ip link show "$bridge" >/dev/null 2>&1 || ip link add "$bridge" address 02:00:0a:f4:00:01 type bridge
	ip addr replace "$node_ip/24" dev "$bridge"
	ip link set "$bridge" up
	sysctl -qw net.ipv4.ip_forward=1
	# Pod to pod through a service stays on the bridge: iptables must see it.
	[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || sysctl -qw net.bridge.bridge-nf-call-iptables=1
	mkdir -p "$state/cni"
	cat >"$state/cni/10-bridge.conflist" <<-J
		{"cniVersion": "1.0.0", "name": "pods", "plugins": [
		  {"type": "bridge", "bridge": "$bridge", "isGateway": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "$run/ipam", "routes": [{"dst": "0.0.0.0/0"}],
		            "ranges": [[{"subnet": "$pod_net.0/24", "gateway": "$node_ip", "rangeStart": "$pod_net.2"}]]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}
		]}
	J
}

shared_mounts() {
	# CSI drivers in pods mount below kubelet's directory and kubelet must see it, and pods must see what the host
	# mounts: it has to be a shared mount, as must be where our driver keeps its state. Under systemd all mounts are.
	# The root of this machine may well be private, so only these two are made shared.
	local at
	for at in "$kubelet_dir" "$driver_state"; do
		mkdir -p "$at"
		mountpoint -q "$at" || mount --bind "$at" "$at"
		mount --make-rshared "$at"
	done
}

containerd_up() {
	mkdir -p "$run/containerd"
	cat >"$state/containerd.toml" <<-T
		version = 2
		root = "$state/containerd"
		state = "$run/containerd"
		disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
		  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
		[grpc]
		  address = "$ctr_socket"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/pause:1"
		  # Root here may lack CAP_SYS_RESOURCE: then no process may lower its score.
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$state/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "overlayfs"
		    default_runtime_name = "runc"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		    SystemdCgroup = false
	T
	start containerd containerd --config "$state/containerd.toml"
	wait_for 30 containerd ctr -a "$ctr_socket" version
}

images() {
	local have root applet
	have=$(ctr -a "$ctr_socket" -n k8s.io images list -q)
	root=$state/rootfs
	if ! grep -qx localhost/pause:1 <<<"$have"; then
		rm -rf "$root"
		mkdir -p "$root"
		cp "$bin/pause" "$root/pause"
		"$here/image.sh" "$state/pause.tar" localhost/pause:1 "$root" /pause
		ctr -a "$ctr_socket" -n k8s.io images import "$state/pause.tar" >/dev/null
	fi
	if ! grep -qx localhost/busybox:test <<<"$have"; then
		rm -rf "$root"
		mkdir -p "$root"/{bin,etc,tmp,root,proc,sys,dev,var}
		cp "$(command -v busybox)" "$root/bin/busybox"
		busybox --list | grep -vx busybox | while read -r applet; do ln -s busybox "$root/bin/$applet"; done
		echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
		echo root:x:0: >"$root/etc/group"
		chmod 1777 "$root/tmp"
		"$here/image.sh" "$state/busybox.tar" localhost/busybox:test "$root"
		ctr -a "$ctr_socket" -n k8s.io images import "$state/busybox.tar" >/dev/null
	fi
	rm -rf "$root" "$state"/*.tar
}

control_plane() {
	start etcd "$bin/etcd" --name e2e --data-dir "$state/etcd" --log-level warn --unsafe-no-fsync \
		--listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
		--listen-peer-urls http://127.0.0.1:0
	wait_for 30 etcd curl -fsS "http://127.0.0.1:$etcd_port/health"
	start kube-apiserver "$bin/kube-apiserver" \
		--etcd-servers="http://127.0.0.1:$etcd_port" \
		--bind-address=0.0.0.0 --secure-port="$api_port" --advertise-address="$node_ip" \
		--tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
		--client-ca-file="$pki/ca.crt" \
		--kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
		--kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
		--service-account-issuer=https://kubernetes.default.svc \
		--service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
		--service-cluster-ip-range="$service_net.0/24" \
		--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
		--profiling=false
	wait_for 120 kube-apiserver "$bin/kubectl" get --raw /readyz
	start kube-controller-manager "$bin/kube-controller-manager" \
		--kubeconfig="$pki/controllers.kubeconfig" --authentication-kubeconfig="$pki/controllers.kubeconfig" \
		--authorization-kubeconfig="$pki/controllers.kubeconfig" --bind-address=127.0.0.1 --cert-dir="$state/kcm" \
		--leader-elect=false --use-service-account-credentials=true \
		--service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
		--cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
	start kube-scheduler "$bin/kube-scheduler" --kubeconfig="$pki/scheduler.kubeconfig" \
		--authentication-kubeconfig="$pki/scheduler.kubeconfig" --authorization-kubeconfig="$pki/scheduler.kubeconfig" \
		--bind-address=127.0.0.1 --cert-dir="$state/scheduler" --leader-elect=false
}

node() {
	echo "nameserver $node_ip" >"$state/resolv.conf"
	cat >"$state/kubelet.yaml" <<-Y
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		containerRuntimeEndpoint: unix://$ctr_socket
		cgroupDriver: cgroupfs
		failCgroupV1: false
		failSwapOn: false
		maxOpenFiles: $(ulimit -Hn)
		resolvConf: $state/resolv.conf
		clusterDNS: [$node_ip]
		clusterDomain: cluster.local
		tlsCertFile: $pki/kubelet-serving.crt
		tlsPrivateKeyFile: $pki/kubelet-serving.key
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: $pki/ca.crt}
		authorization: {mode: Webhook}
		# Images cannot be pulled again: never collect them.
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		# A nearly full disk is no reason to evict a test's pods.
		evictionHard: {memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
		# Tests wait for rotations and restarts: see changes soon.
		syncFrequency: 10s
		fileCheckFrequency: 5s
		nodeStatusReportFrequency: 10s
		podLogsDir: $state/log/pods
		volumePluginDir: $state/volume-plugins
	Y
	start kubelet "$bin/kubelet" --config="$state/kubelet.yaml" --kubeconfig="$pki/kubelet.kubeconfig" \
		--root-dir="$kubelet_dir" --hostname-override="$node_name" --node-ip="$node_ip"
	start kube-proxy "$bin/kube-proxy" --kubeconfig="$pki/proxy.kubeconfig" --hostname-override="$node_name" \
		--proxy-mode=iptables --cluster-cidr="$pod_net.0/24" --conntrack-max-per-core=0 --bind-address=127.0.0.1 \
		--healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
	start cluster-dns "$bin/cluster-dns" --kubeconfig="$pki/proxy.kubeconfig" --listen="$node_ip:53"
	wait_for 120 "the node" "$bin/kubectl" wait --for=condition=Ready --timeout=1s "node/$node_name"
	wait_for 60 "the default service account" "$bin/kubectl" get serviceaccount default
}

[ "$(id -u)" = 0 ] || die "needs root"
mkdir -p "$state/log" "$run" "$cache"
install_packages
build
[ "${1-}" != build ] || exit 0
certificates
export KUBECONFIG=$state/kubeconfig
install -m 600 "$pki/admin.kubeconfig" "$KUBECONFIG"
ln -sfn "$bin" "$state/bin"
export PATH=$bin:$PATH
network
shared_mounts
containerd_up
images
control_plane
node
say "node $node_name is Ready; kubectl is $state/bin/kubectl"
echo "$KUBECONFIG"
