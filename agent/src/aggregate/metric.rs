//! The one declaration of a metric, from which Prometheus, OTLP and the documentation are made.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Monotonic sum.
    Counter,
    /// Value that goes up and down.
    Gauge,
    /// Base-2 exponential histogram, scale 3.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// How far a name can be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Kept within a major version.
    Stable,
    /// May still change.
    Experimental,
}

/// A dimension, with its name in each world.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// Prometheus label name.
    pub prometheus: &'static str,
    /// OTLP attribute key: the semantic convention where there is one, else `geophone.*`.
    pub otlp: &'static str,
    /// What its values mean.
    pub help: &'static str,
}

/// The declaration of a metric. Lives beside the code that increments it.
#[derive(Debug)]
pub struct Metric {
    /// Prometheus name, `_total` of counters included.
    pub name: &'static str,
    /// OTLP name.
    pub otlp: &'static str,
    /// UCUM unit: `s`, `By`, `{segment}`, `1`.
    pub unit: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// One sentence, without a final period.
    pub help: &'static str,
    /// Labels in the order of their values.
    pub labels: &'static [&'static Label],
    /// How far the name can be relied upon.
    pub stability: Stability,
}

impl Metric {
    const fn new(
        name: &'static str,
        otlp: &'static str,
        unit: &'static str,
        kind: Kind,
        labels: &'static [&'static Label],
        help: &'static str,
        stability: Stability,
    ) -> Self {
        Self {
            name,
            otlp,
            unit,
            kind,
            help,
            labels,
            stability,
        }
    }

    /// A metric whose name can be relied upon.
    pub const fn stable(
        name: &'static str,
        otlp: &'static str,
        unit: &'static str,
        kind: Kind,
        labels: &'static [&'static Label],
        help: &'static str,
    ) -> Self {
        Self::new(name, otlp, unit, kind, labels, help, Stability::Stable)
    }

    /// A metric that may still change.
    pub const fn experimental(
        name: &'static str,
        otlp: &'static str,
        unit: &'static str,
        kind: Kind,
        labels: &'static [&'static Label],
        help: &'static str,
    ) -> Self {
        Self::new(name, otlp, unit, kind, labels, help, Stability::Experimental)
    }
}

/// Labels that several probes use.
pub mod label {
    use super::Label;
    macro_rules! labels {
        ($($name:ident: $prometheus:literal, $otlp:literal, $help:literal;)*) => {$(
            #[doc = $help]
            pub static $name: Label = Label { prometheus: $prometheus, otlp: $otlp, help: $help };
        )*};
    }
    labels! {
        SUBJECT: "subject", "geophone.subject", "Who: workload, container, systemd unit or process";
        PEER: "peer", "geophone.peer", "To whom: name of the configured prefix, else loopback, private or public";
        PEER_REGION: "peer_region", "destination.cloud.region", "Region of the peer's prefix";
        PEER_ZONE: "peer_zone", "destination.cloud.availability_zone", "Zone of the peer's prefix";
        DIRECTION: "direction", "network.io.direction", "receive or transmit";
        TYPE: "type", "network.tcp.retransmit.type", "fast, tail_loss_probe, timeout or synack";
        ROLE: "role", "network.tcp.handshake.role", "client or server; unknown for connections older than the agent";
        OUTCOME: "outcome", "geophone.outcome", "opened, closed or failed; adopted = already open when the agent came";
        ERROR: "error", "error.type", "Why a connection ended: none, refused, reset, timed_out, unreachable, other";
        REASON: "reason", "geophone.reason", "Why";
        PROTOCOL: "protocol", "network.transport", "tcp, udp, icmp … or the network protocol where there is no transport";
        DEVICE: "device", "network.interface.name", "Network interface";
        BLOCK_DEVICE: "device", "system.device", "Block device";
        RESOURCE: "resource", "geophone.node.resource", "What can run out";
        MOUNT_DEVICE: "device", "system.device", "Block device of a file system; of a listen queue its address and port";
        PRESSURE: "kind", "geophone.node.pressure.kind", "some tasks waited, or all that were not idle (full)";
        OPERATION: "operation", "geophone.block.operation", "read, write, flush or discard";
        PROBE: "probe", "geophone.probe", "Probe";
        STAGE: "stage", "geophone.stage", "Where on the way from the kernel to the series";
        PROGRAM: "program", "geophone.program", "eBPF program";
        HOOK: "hook", "geophone.hook", "Where the program hooks in";
        STATE: "state", "geophone.state", "attached, unsupported, broken or off";
        SOURCE: "source", "geophone.source", "tcp_probe, sock_ops or sweep";
        SAMPLE: "sample", "geophone.sample", "raw or smoothed";
        MAP: "map", "geophone.map", "eBPF map";
        REMOTE: "remote", "geophone.path.remote", "Address that is traced";
        HOP: "hop", "geophone.path.hop", "Place on the way, 1 = the first router";
        HOP_ADDRESS: "address", "geophone.path.hop.address", "Address by which a router answers";
        SWITCH: "switch", "geophone.sched.switch", "voluntary or involuntary";
        PROFILE_SAMPLE: "sample", "geophone.profile.sample", "What a stack is a sample of: cpu, off_cpu, lock, fault, block_io, drop, retransmit";
        END: "end", "geophone.profile.end", "How a user stack ended: complete, or why it is not whole";
        K8S_NAMESPACE: "k8s_namespace_name", "k8s.namespace.name", "Namespace of the pod";
        K8S_DEPLOYMENT: "k8s_deployment_name", "k8s.deployment.name", "Deployment of the pod";
        K8S_REPLICA_SET: "k8s_replicaset_name", "k8s.replicaset.name", "ReplicaSet of the pod, if it is of no Deployment";
        K8S_REPLICATION_CONTROLLER: "k8s_replicationcontroller_name", "k8s.replicationcontroller.name", "ReplicationController of the pod, if it is of no DeploymentConfig";
        K8S_STATEFUL_SET: "k8s_statefulset_name", "k8s.statefulset.name", "StatefulSet of the pod";
        K8S_DAEMON_SET: "k8s_daemonset_name", "k8s.daemonset.name", "DaemonSet of the pod";
        K8S_JOB: "k8s_job_name", "k8s.job.name", "Job of the pod, if it is of no CronJob";
        K8S_CRON_JOB: "k8s_cronjob_name", "k8s.cronjob.name", "CronJob of the pod";
        K8S_POD: "k8s_pod_name", "k8s.pod.name", "Pod";
        K8S_SERVICE: "k8s_service_name", "k8s.service.name", "Service that the pod is behind";
        K8S_CONTAINER: "k8s_container_name", "k8s.container.name", "Container of the pod";
        METRIC: "metric", "geophone.metric", "What is reconciled";
    }
}

/// Metrics that may still change, and the list of them.
macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $otlp:literal, $unit:literal, $kind:ident, $labels:expr, $help:literal;)*) => {
        $($(#[$doc])* pub static $id: $crate::aggregate::Metric = $crate::aggregate::Metric::experimental(
            $name, $otlp, $unit, $crate::aggregate::Kind::$kind, $labels, $help,
        );)*
        /// All of them.
        pub static METRICS: &[&$crate::aggregate::Metric] = &[$(&$id),*];
    };
}
pub(crate) use metrics;
