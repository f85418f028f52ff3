# A part of the guest script: geophone as a host's administrator has it, installed by deploy/install.sh into a machine whose
# first process is systemd. The host judges what is told here (xtask/src/vm/service.rs).
export SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0 SYSTEMD_PAGER=
settings=/etc/geophone/geophone.yaml

installer() { sh /geophone/deploy/install.sh "$@" 2>&1; }
property() { systemctl show --value -p "$1" geophone; }
api() { wget -q -O - "http://127.0.0.1:9779$1"; }

# timed COMMAND...: what it says, and how long it took in hundredths of a second.
timed() {
    local before after code
    before=$(cut -d ' ' -f 1 /proc/uptime); "$@" 2>&1; code=$?
    after=$(cut -d ' ' -f 1 /proc/uptime)
    echo "took $((10#${after/./} - 10#${before/./}))"
    return $code
}
is_ready() { ready "$(property MainPID)"; }

# What each thread of the agent may.
threads() { cat /proc/"$(property MainPID)"/task/*/status | grep -E '^(Uid|CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' | sort -u; }

# Told before: whether the store knows of it afterwards.
remembered() { geophone query "geophone_agent_memory_bytes @ $then" 2>&1; }

killed() {
    kill -KILL "$(property MainPID)"
    sleep 3; is_ready && property NRestarts
}

# Nothing of it is there any more.
gone() {
    ! getent passwd geophone && ! getent group geophone && ! systemctl cat geophone 2>&1 &&
        ! ls -d /var/lib/geophone /etc/geophone /usr/local/bin/geophone 2>&1
}

section install installer --binary /bin/geophone
section ready is_ready
section active systemctl is-active geophone
section metrics api /metrics
section again installer --binary /bin/geophone

# The probes that are off unless asked for, too; for stacks a Debian kernel wants this of who lacks CAP_SYS_ADMIN (docs/security.md).
echo 2 > /proc/sys/kernel/perf_event_paranoid
cat > $settings <<'END'
budget: {enabled: false}
rules: {files: [/etc/geophone/rules]}
probes:
  dns: {enabled: true, names: 10}
  udp: {enabled: true}
  block: {enabled: true}
  sched: {enabled: true}
  tunnel: {enabled: true}
  path: {forwarded: {devices: ["*"]}}
  profile: {enabled: true, hz: 97, drops: true, retransmits: true, off_cpu: true, off_cpu_waker: true, locks: true, faults: true, block_io: true}
END
section restart systemctl restart geophone
section ready_all is_ready
section by_hand geophone --config $settings check --json
section status api /api/v1/status
section threads threads
section metrics_all api /metrics
then=$(date +%s)
section state ls -ldn /var/lib/geophone /var/cache/geophone
pid=$(property MainPID)
cat > /etc/geophone/rules/own.yaml <<'END'
groups: [{name: own, rules: [{record: own:up, expr: up}]}]
END
section reload systemctl reload geophone
for _ in {1..20}; do sleep 1; api /api/v1/rules | grep -q own:up && break; done
section rules api /api/v1/rules
section same test "$pid" = "$(property MainPID)"
section killed killed
section remembered remembered
section stop timed systemctl stop geophone
section result property Result
section left_by_service bpftool prog show
cp /bin/geophone /tmp/new; echo >> /tmp/new; cp $settings /tmp/settings
section upgrade installer --binary /tmp/new
section ready_new is_ready
section kept cmp $settings /tmp/settings
echo 'probes: {tpc: {enabled: true}}' > $settings
systemctl restart geophone
for _ in {1..100}; do [ "$(property ActiveState)" = failed ] && break; sleep 0.1; done
# Time in which it would be tried again.
sleep 4
section refused systemctl status --full geophone
section restarts property NRestarts
section refused_upgrade installer --binary /bin/geophone
cp /tmp/settings $settings
section mended systemctl restart geophone
section ready_mended is_ready
# To the console, for who looks for what went wrong.
journalctl --unit geophone --output cat >&2
section uninstall installer --uninstall
section purge installer --uninstall --purge
section gone gone
