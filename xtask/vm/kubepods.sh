# Containers of runc where the kubelet has them started, on a machine that has nothing but cgroup v2: one that sends 3,000,000 bytes,
# has a limit and outlives the agent, whose last look at cgroups is the only one of which is known when it comes (emulated, they
# are dear, so it looks seldom); and one that is over as soon as it has asked once. containerd has written down whose they are.

# container POD ID COMMAND...: runs it to its end.
container() {
    local pod=$1 id=$2 bundle=/tmp/bundles/$2 args='' mounts='' word; shift 2
    for word in "$@"; do args+=",\"$word\""; done
    for word in /bin /sbin /lib /lib64 /usr /dev; do
        [ ! -d $word ] || mounts+=",{\"destination\":\"$word\",\"type\":\"bind\",\"source\":\"$word\",\"options\":[\"rbind\",\"ro\"]}"
    done
    mkdir -p "$bundle/rootfs" "/run/containerd/io.containerd.runtime.v2.task/k8s.io/$id"
    cat > "$bundle/config.json" << END
{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
 "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin:/sbin:/usr/bin"], "args": [${args#,}]},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}$mounts],
 "linux": {"cgroupsPath": "/kubepods/burstable/pod$pod-7f3c-4a51-9d7e-2b8c90e1d4f6/$id",
  "resources": {"memory": {"limit": 67108864}}, "namespaces": [{"type": "pid"}, {"type": "mount"}]},
 "annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "main",
  "io.kubernetes.cri.sandbox-name": "web-${pod:7}", "io.kubernetes.cri.sandbox-namespace": "shop"}}
END
    cp "$bundle/config.json" "/run/containerd/io.containerd.runtime.v2.task/k8s.io/$id/"
    # The first file system of a kernel cannot be pivoted away from.
    timeout 60 runc run --no-pivot --bundle "$bundle" "$id" < /dev/null || echo "container $pod: $?" 1>&2
}

kubepods() {
    local server
    nc -l -p 5301 > /dev/null & server=$!
    sleep 0.5
    container 00000000 "$(printf '%064x' 0xa1)" bash -c \
        'exec 5<>/dev/tcp/127.0.0.1/5301; head -c 3000000 /dev/zero >&5; exec 5>&-; sleep 60' 1>&2 &
    outlives=$!
    sleep 5
    container 00000001 "$(printf '%064x' 0xa2)" wget -q -O /dev/null http://127.0.0.1:9779/healthz
    kill $server 2> /dev/null
    # Whose it was is looked up after its end.
    sleep 3
}

# It is in the way of who takes the cgroups away.
kubepods_end() { runc delete --force "$(printf '%064x' 0xa1)"; wait $outlives; }
