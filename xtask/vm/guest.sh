#!/bin/bash
# What happens in the virtual machine: check, then a known delay and loss under the agent's eyes, then the same machine
# without cgroups. With lockdown on the kernel's command line: check, and a short run; with systemd: a service (service.sh). The
# results go to the second serial line as sections; the host judges them (xtask/src/vm/judge.rs).

# section NAME COMMAND...: its standard output and exit code are results, its errors go to the console.
section() {
    local name=$1 code; shift
    echo "@@begin $name" >&3
    "$@" >&3
    code=$?
    printf '\n@@end %s %s\n' "$name" "$code" >&3
}

# The kernel's own count of retransmitted segments, of a namespace or of here.
retransmits() {
    local run=()
    [ "$1" = here ] || run=(ip netns exec "$1")
    "${run[@]}" cat /proc/net/snmp | while read -r family rest; do
        [ "$family" = Tcp: ] || continue
        if [ -z "$names" ]; then names=($rest); continue; fi
        values=($rest)
        for i in "${!names[@]}"; do [ "${names[$i]}" = RetransSegs ] && echo "${values[$i]}"; done
    done
}

network() {
    ip netns add a && ip netns add b
    ip link add v0 netns a type veth peer name v0 netns b
    ip -n a addr add 10.98.0.1/24 dev v0
    ip -n b addr add 10.98.0.2/24 dev v0
    for n in a b; do
        ip -n $n link set lo up
        ip -n $n link set v0 up
        # One packet is one segment, so that one loss is one retransmit.
        ip netns exec $n ethtool -K v0 gso off tso off gro off
    done
    tc -n a qdisc add dev v0 root netem delay 40ms loss 10%
}

transfer() {
    # Its errors are the section's, to say why there are no flows.
    geophone flows --json --for 30s 2>&1 > /tmp/flows.json < /dev/null & flows=$!
    # It is there before the connections are.
    sleep 2
    ip netns exec b iperf3 --server --one-off --daemon
    sleep 0.3
    timeout 14 ip netns exec a iperf3 --client 10.98.0.2 --time 4 > /tmp/iperf3.log
    tail -4 /tmp/iperf3.log
    # A VXLAN with VNI 43, in it the header of an ARP frame, in a namespace that the agent is not in.
    ip netns exec a bash -c 'for _ in {1..5}; do
        printf "\x08\0\0\0\0\0\x2b\0\2\0\0\0\0\1\2\0\0\0\0\2\x08\6" > /dev/udp/10.98.0.2/4789
    done'
    # The ends of the last connections are told.
    sleep 2; kill -INT $flows; wait $flows
}

# The traces of the connections of iperf3 that have ended: each is told at both of its ends.
traces() { grep 10.98.0 /tmp/flows.json | grep '"event":"closed"' | grep -o '"trace_id":"[0-9a-f]*"'; }

# Asks the agent whether it is ready until it is.
ready() {
    for _ in {1..200}; do
        wget -q -O /dev/null http://127.0.0.1:9779/readyz && return 0
        kill -0 "$1" 2> /dev/null || return 1
        sleep 0.1
    done
    return 1
}

# watching NAME CAUSE OPTION...: runs the agent with these options while the cause is at work; its summary and exit code
# are section NAME.
watching() {
    local name=$1 cause=$2 agent; shift 2
    rm -f /tmp/summary.json
    geophone "$@" run --for 150s --summary-json /tmp/summary.json < /dev/null 1>&2 &
    agent=$!
    section "ready_$name" ready $agent
    if kill -0 $agent 2> /dev/null; then
        section "cause_$name" "$cause"
        # Past the last tick that counts it.
        sleep 2
        kill -INT $agent
    fi
    wait $agent
    section "$name" ended $?
}

ended() { cat /tmp/summary.json; return "$1"; }
counts() { for n in a b here; do retransmits "$n"; done; }

# Twenty connections to the agent itself, under its own eyes.
requests() {
    mounts > /tmp/mounts_during
    for _ in {1..20}; do wget -q -O /dev/null http://127.0.0.1:9779/healthz; done
}

# Mounts of cgroup2 that the machine sees, and directories made for them.
mounts() { grep -w cgroup2 /proc/mounts; ls -d /tmp/geophone* 2> /dev/null; return 0; }

# A CPU goes and comes back, once for two seconds and once for a moment; something is busy on it all the time. Prints the
# CPUs that are sampled before, without it and at the end, the samples of the busy one on it in the seconds 3 and 4 after
# each return, and what is unaccounted.
hotplug() {
    local agent busy online=/sys/devices/system/cpu/cpu1/online metrics=http://127.0.0.1:9779/metrics
    geophone --set probes.profile.enabled=true --set probes.profile.hz=97 --set probes.profile.symbolize=false \
        --set probes.tcp.enabled=false --set budget.enabled=false run < /dev/null 1>&2 &
    agent=$!
    ready $agent || return 1
    bash -c 'while :; do :; done' & busy=$!
    value() { wget -q -O - $metrics | grep "^$1" | cut -d ' ' -f 2; }
    samples() { wget -q -O - "http://127.0.0.1:9779/api/v1/profile?pid=$busy&from=2s&format=json" | grep -o '"samples":[0-9]*'; }
    sleep 2; value geophone_profile_cpus
    echo 0 > $online; sleep 2; value geophone_profile_cpus
    echo 1 > $online; taskset -p 2 $busy > /dev/null; sleep 4; samples
    # Behind its back: between two looks.
    taskset -p 3 $busy > /dev/null; kill -STOP $agent; echo 0 > $online; echo 1 > $online; kill -CONT $agent
    taskset -p 2 $busy > /dev/null; sleep 4; samples
    value geophone_profile_cpus
    value 'geophone_events_unaccounted{probe="profile"}'
    kill $busy; kill -INT $agent; wait $agent
}

# The stacks of a program that was made for that (xtask/vm/stacks.c), of four seconds, in lines as for a flamegraph.
native() {
    local agent program
    geophone --set probes.profile.enabled=true --set probes.profile.hz=97 --set probes.tcp.enabled=false \
        --set budget.enabled=false run < /dev/null 1>&2 &
    agent=$!
    ready $agent || return 1
    stacks & program=$!
    # Emulated, it takes seconds until its tables are read.
    sleep 20
    wget -q -O - "http://127.0.0.1:9779/api/v1/profile?pid=$program&from=4s&format=folded"
    kill $program; kill -INT $agent; wait $agent
}

# A unit with limits that never rests, and one that takes more memory than it may; what the kernel has counted of them.
limits() {
    local root=/sys/fs/cgroup slice=/sys/fs/cgroup/system.slice busy unit
    echo '+cpu +memory +pids' > $root/cgroup.subtree_control
    mkdir -p $slice && echo '+cpu +memory +pids' > $slice/cgroup.subtree_control
    mkdir $slice/limited.service $slice/eater.service
    echo 67108864 > $slice/memory.max
    echo 50 > $slice/limited.service/pids.max
    echo '20000 100000' > $slice/limited.service/cpu.max
    echo 33554432 > $slice/eater.service/memory.max
    inside() { echo $BASHPID > "$slice/$1/cgroup.procs"; shift; exec "$@"; }
    inside limited.service bash -c 'while :; do :; done' & busy=$!
    (inside eater.service tail /dev/zero > /dev/null); echo "eater $?" 1>&2
    sleep 4; kill $busy; wait $busy
    # The end itself may be throttled, which counts when its period of 100 ms is over.
    sleep 0.5
    for unit in limited eater; do
        while read -r name value; do echo "$unit $name $value"; done < $slice/$unit.service/cpu.stat
        while read -r name value; do echo "$unit $name $value"; done < $slice/$unit.service/memory.events
        echo "$unit full $(grep full $slice/$unit.service/cpu.pressure | grep -o '[0-9]*$')"
    done
}

. /tunnels.sh
. /kubepods.sh
exec 3> "$results"
section kernel uname -r
section boot cut -d ' ' -f 1 /proc/uptime
section lockdown cat /sys/kernel/security/lockdown
if grep -qw systemd /proc/cmdline; then
    . /service.sh
    section left bpftool prog show
    section end true
    exit
fi
# The probes that are off unless asked for must load as well.
more=(--set probes.dns.enabled=true --set probes.udp.enabled=true --set probes.dns.names=10 --set probes.block.enabled=true --set probes.sched.enabled=true
  --set probes.profile.enabled=true --set probes.profile.drops=true --set probes.profile.retransmits=true
  --set probes.profile.off_cpu=true --set probes.profile.off_cpu_waker=true --set probes.profile.locks=true --set probes.profile.faults=true --set probes.profile.block_io=true --set probes.tunnel.enabled=true --set "probes.tunnel.namespaces=[a]" --set budget.enabled=false
  --set 'probes.path.forwarded.devices=["*"]')
section check geophone check --json "${more[@]}"
if grep -q lockdown= /proc/cmdline; then
    watching run requests "${more[@]}"
else
    section network network
    watching run transfer "${more[@]}"
    section retransmits counts
    section traces traces
    section corpus geophone test-corpus
    section tunnels tunnels
    # Emulated, the agent is dear, and the governor would take the programs off.
    watching run_tunnels traffic --set budget.enabled=false
    kept
    tunnels_end
    watching run_cgroups limits --set probes.cgroup.interval=1s --set budget.enabled=false
    watching run_kubepods kubepods --set probes.cgroup.interval=1s --set budget.enabled=false
    kubepods_end
    section hotplug hotplug
    [ ! -x /bin/stacks ] || section stacks native
    umount /sys/fs/cgroup
    section check_no_cgroup2 geophone check --json --btf /dev/null
    watching run_no_cgroup2 requests --btf /dev/null
    section mounts_during cat /tmp/mounts_during
    section mounts_after mounts
fi
section left bpftool prog show
section end true
