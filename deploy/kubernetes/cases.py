"""Values for the chart: what it takes, what it refuses, and what the plain manifests are made of."""

EXPOSED = {"api": {"expose": True, "tls": {"secretName": "tls"}, "token": {"secretName": "token"}}}
MUTUAL = {"api": {**EXPOSED["api"], "tls": {"secretName": "tls", "clientCaKey": "ca.crt"}}}
CLIENT = {"cert": {"secret": {"name": "prometheus", "key": "tls.crt"}}, "keySecret": {"name": "prometheus", "key": "tls.key"}}
SHOWN = {"client_cert_file": "/etc/geophone/tls/client.crt", "client_key_file": "/etc/geophone/tls/client.key"}
TUNNELS_OFF = {"tunnel": {"enabled": False}}
STACKS = {"profile": {"enabled": True}}
# name: values. Each renders, is valid, and its configuration is one that the agent takes.
GOOD = {
    "default": {},
    "exposed": EXPOSED,
    "mutual TLS": {**MUTUAL, "podMonitor": {"create": True, "tlsConfig": CLIENT}},
    "mutual TLS alone": {"api": {"expose": True, "tls": MUTUAL["api"]["tls"]}, "podMonitor": {"create": True, "tlsConfig": CLIENT}},
    "mutual TLS, asked in the pod": {**MUTUAL, "config": {"api": {"tls": SHOWN}}},
    "pod monitor": {**EXPOSED, "podMonitor": {"create": True, "extra": {"sampleLimit": 100_000}}},
    "older operator": {**EXPOSED, "dashboards": {"create": True, "classic": True}, "podMonitor": {"create": True, "extra": {"scrapeNativeHistograms": None}}},
    "OpenShift's monitoring": {**EXPOSED, "serviceMonitor": {"create": True, "tlsConfig": {"ca": {"configMap": {"name": "a", "key": "b"}}}}},
    "service monitor": {**EXPOSED, "serviceMonitor": {"create": True, "labels": {"release": "prometheus"}}},
    "all": {
        **EXPOSED,
        "config": {
            "peers": [{"name": "db", "cidrs": ["10.1.2.0/24"]}],
            "export": {"otlp": {"endpoint": "https://collector:4317"}},
            "probes": {"dns": {"enabled": True}, "profile": {"enabled": True}},
            "rules": {"files": ["/etc/mine"], "interval": "30s", "alertmanagers": ["http://second"]},
        },
        "topologyFromLabels": True,
        "env": [{"name": "GEOPHONE_LOG__LEVEL", "value": "debug"}],
        "rules": {"alertmanagers": ["http://alertmanager:9093"]},
        "priorityClass": {"create": True, "name": "geophone"},
        "networkPolicy": {
            "create": True,
            "scrapeFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "egress": [{"ports": [{"port": 465}]}],
        },
        "prometheusRule": {"create": True},
        "dashboards": {"create": True},
        "image": {"digest": "sha256:" + "0" * 64},
    },
    "own profile": {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "geophone.json"}}, "openshift": {"scc": True}},
    "own AppArmor profile": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "geophone"}},
    "pod network": {**EXPOSED, "hostNetwork": False, "dnsPolicy": "ClusterFirst"},
    "peers": {"kubernetes": {"peers": True}, "config": {"kubernetes": {"subject": "container"}}},
    "peers by the configuration": {"config": {"kubernetes": {"peers": True}}},
    "peers said twice": {"kubernetes": {"peers": True}, "config": {"kubernetes": {"peers": "services"}}},
    "peers that are pods": {"kubernetes": {"peers": "pods"}},
    "endpoints": {"config": {"kubernetes": {"peers": True, "endpoints": True}}},
    "peers that are pods by the configuration": {"config": {"kubernetes": {"peers": "pods"}}},
    "sent by remote write": {"config": {"export": {"otlp": {}, "remote_write": {"url": "https://metrics.example/push"}}}, "tests": {"create": False}},
    "cert-manager": {"api": {"expose": True, "tls": {"create": "cert-manager", "issuerRef": {"name": "ca"}}, "token": {"create": True}}},
    "IPv6": {"api": {**EXPOSED["api"], "listenAddress": "[::]"}},
    "no API": {"kubernetes": {"enabled": False}},
    "no API, said twice": {"kubernetes": {"enabled": False}, "config": {"kubernetes": {"enabled": False}}},
    "where it is by hand": {"config": {"region": "eu-central-1", "zone": "eu-central-1a"}},
    "rules of a node that remembers nothing": {"store": {"kind": "none"}},
    "roles of somebody else": {"kubernetes": {"rbac": False}},
    "account of somebody else": {"serviceAccount": {"create": False, "name": "agents"}, "openshift": {"scc": True}},
    "no tunnels": {"config": {"probes": TUNNELS_OFF}},
    "lookups": {"config": {"probes": {**TUNNELS_OFF, "dns": {"enabled": True}}}},
    "datagrams": {"config": {"probes": {**TUNNELS_OFF, "udp": {"enabled": True}}}},
    "forwarded": {"config": {"probes": {**TUNNELS_OFF, "path": {"forwarded": {"devices": ["eth1"]}}}}},
    "peers, no tunnels": {"kubernetes": {"peers": True}, "config": {"probes": TUNNELS_OFF}},
    "traces": {"config": {"peers": [{"name": "db", "cidrs": ["10.1.2.3/32"]}], "probes": {"path": {"active": {"peers": ["db"]}}}}},
    "no paths": {"config": {"probes": {**TUNNELS_OFF, "path": {"enabled": False, "forwarded": {"devices": ["eth1"]}}}}},
    "stacks": {"config": {"probes": STACKS}, "openshift": {"scc": True}},
    "the node's files": {"hostFiles": True},
    "its own processes": {"hostPID": False},
    "its own processes, no API": {"hostPID": False, "kubernetes": {"enabled": False}},
    "namespaces": {
        "config": {"probes": {"tunnel": {"namespaces": ["a"]}}},
        "capabilities": ["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "SYSLOG"],
        "securityContext": {"allowPrivilegeEscalation": True},
    },
    "own capabilities": {"capabilities": ["BPF", "PERFMON"], "hostPID": False, "openshift": {"scc": True}},
    "no profile": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "openshift": {"scc": True}},
    "own labels": {"commonLabels": {"team": "network"}, "podLabels": {"sidecar.istio.io/inject": "false"}},
    "no security context": {"securityContext": None},
    "no security context on OpenShift": {"securityContext": None, "openshift": {"scc": True}},
    "endpoints by env": {
        "networkPolicy": {"create": True},
        "env": [
            {"name": "GEOPHONE_EXPORT__REMOTE_WRITE__URL", "value": "https://metrics.example:8443/push"},
            {"name": "GEOPHONE_EXPORT__OTLP__ENDPOINT", "valueFrom": {"secretKeyRef": {"name": "otlp", "key": "endpoint"}}},
        ],
        "config": {"export": {"otlp": None}},
        "extraVolumes": [{"name": "templates", "configMap": {"name": "templates"}}],
        "extraVolumeMounts": [{"name": "templates", "mountPath": "/etc/geophone/templates", "readOnly": True}],
    },
    "own names": {**EXPOSED, "hostPrefix": "eu-", "podMonitor": {"create": True}},
    "nothing kept": {"store": {"kind": "none"}, "rules": {"onNode": False}},
}
# What the container may, and whether it sees the node's processes, by case; of those that are not here what DEFAULT says.
BASE = {"BPF", "PERFMON", "SYSLOG"}
DEFAULT = BASE | {"NET_ADMIN"}, True
ALL = DEFAULT[0] | {"SYS_PTRACE", "DAC_READ_SEARCH"}
CAPABILITIES = {
    "all": (ALL, True),
    "stacks": (ALL, True),
    "no tunnels": (BASE, True),
    "no paths": (BASE, True),
    "traces": (DEFAULT[0] | {"NET_RAW"}, True),
    "the node's files": (DEFAULT[0] | {"SYS_PTRACE"}, True),
    "its own processes": (DEFAULT[0], False),
    "its own processes, no API": (DEFAULT[0], False),
    "namespaces": (ALL | {"SYS_ADMIN"}, True),
    "no API": (DEFAULT[0] | {"SYS_PTRACE"}, True),
    "no API, said twice": (DEFAULT[0] | {"SYS_PTRACE"}, True),
    "own capabilities": ({"BPF", "PERFMON"}, False),
}
# values, and what the refusal says of them.
BAD = [
    ({"api": {"expose": True}}, "set api.tls.secretName, and api.token.secretName"),
    ({"api": {"expose": True, "tls": {"secretName": "tls"}}}, "or api.tls.clientCaKey"),
    ({"hostNetwork": False}, "set api.expose"),
    ({"podMonitor": {"create": True}}, "cannot reach 127.0.0.1"),
    ({**EXPOSED, "podMonitor": {"create": True}, "serviceMonitor": {"create": True}}, "take one"),
    ({"capabilities": ["BPF", "SYS_ADMIN"]}, "allowPrivilegeEscalation"),
    ({"config": {"kubernetes": {"enabled": False}}}, "config.kubernetes.enabled"),
    ({"kubernetes": {"enabled": False}, "config": {"kubernetes": {"enabled": True}}}, "config.kubernetes.enabled"),
    ({"kubernetes": {"peers": True}, "config": {"kubernetes": {"peers": False}}}, "config.kubernetes.peers"),
    ({"kubernetes": {"peers": "pods"}, "config": {"kubernetes": {"peers": True}}}, "config.kubernetes.peers"),
    ({"kubernetes": {"enabled": False, "peers": True}}, "set kubernetes.enabled"),
    ({"config": {"probes": None}}, "config.probes: has no settings"),
    ({"hostPID": False, "config": {"probes": STACKS}}, "stacks are of the node's processes"),
    ({"hostPID": False, "hostFiles": True}, "hostFiles: they are those"),
    ({"capabilities": ["BPF", "PERFMON"], "config": {"probes": STACKS}}, "have no names without SYS_PTRACE"),
    ({"config": {"probes": {"tunnel": {"namespaces": ["a"]}}}}, "config.probes.tunnel.namespaces: entering"),
    ({"env": [{"name": "GEOPHONE_PROBES__DNS__ENABLED", "value": "true"}]}, "set it there, or capabilities too"),
    ({"env": [{"name": "GEOPHONE_KUBERNETES__PEERS", "value": "pods"}]}, "from the values of kubernetes"),
    ({"env": [{"name": "GEOPHONE_API__LISTEN", "value": "0.0.0.0:80"}]}, "from the values of api"),
    ({"api": {**EXPOSED["api"], "listenAddress": "127.0.0.1"}}, "at the pod's address"),
    ({**EXPOSED, "podMonitor": {"create": True, "interval": "5s"}}, "podMonitor.scrapeTimeout: 10s is longer"),
    ({**EXPOSED, "podMonitor": {"create": True, "interval": "1m"}, "prometheusRule": {"create": True}}, "set 30s at most"),
    ({"probes": {"liveness": {"successThreshold": 2}}}, "successThreshold"),
    ({"config": {"kubernetes": None}}, "config.kubernetes: has no settings"),
    ({"config": {"export": None}}, "config.export: has no settings"),
    ({"api": {**EXPOSED["api"], "listenAddress": "::"}}, "listenAddress"),
    ({"config": {"rules": None}}, "config.rules: has no settings"),
    ({"config": {"api": {"listen": "0.0.0.0:80"}}}, "config.api.listen"),
    ({**MUTUAL, "config": {"api": {"tls": {"cert_file": "/mine"}}}}, "config.api.tls.cert_file"),
    ({**EXPOSED, "config": {"api": {"tls": SHOWN}}}, "set api.tls.clientCaKey"),
    ({"config": {"store": {"kind": "disk"}}}, "config.store.kind"),
    ({"serviceAccount": {"create": False}}, "every pod of the namespace"),
    ({"serviceAccount": {"create": False}, "openshift": {"scc": True}, "kubernetes": {"rbac": False}}, "every pod of the namespace"),
    ({"serviceAccount": {"create": False}, "openshift": {"scc": True}, "kubernetes": {"enabled": False}}, "every pod of the namespace"),
    ({"topologyFromLabels": True, "config": {"region": "eu"}}, "topologyFromLabels"),
    ({"priorityClass": {"create": True}}, "Kubernetes' own"),
    ({**EXPOSED, "serviceMonitor": {"create": True}, "service": {"create": False}}, "no service"),
    ({"store": {"kind": "none"}, "rules": {"alertmanagers": ["http://a:9093"]}}, "nothing is evaluated"),
    ({"store": {"kind": "none"}, "config": {"rules": {"alertmanagers": ["http://a:9093"]}}}, "nothing is evaluated"),
    ({"tolerations": "all"}, "tolerations"),
    ({"api": {"ports": 1}}, "ports"),
    ({"api": {"expose": True, "tls": {"create": "cert-manager"}, "token": {"create": True}}}, "set api.tls.issuerRef.name"),
    ({"api": {"expose": True, "tls": {"create": "self-signed", "clientCaKey": "a"}, "token": {"create": True}}}, "no certificates for clients"),
    ({**MUTUAL, "podMonitor": {"create": True}}, "set podMonitor.tlsConfig.cert"),
    ({**MUTUAL, "serviceMonitor": {"create": True, "tlsConfig": {"cert": CLIENT["cert"]}}}, "set serviceMonitor.tlsConfig.cert"),
    ({"appArmorProfile": {"type": "Localhost"}}, "localhostProfile"),
    ({"hostPID": "yes"}, "hostPID"),
    ({"dnsPolicy": "None"}, "dnsPolicy"),
    ({"commonLabels": {"app.kubernetes.io/name": "agents"}}, "commonLabels: the chart's selectors"),
    ({"podLabels": {"app.kubernetes.io/instance": "second"}}, "podLabels: the chart's selectors"),
    ({"capabilities": ["ALL"]}, "capabilities"),
    ({"store": {"kind": "disk"}}, "kind"),
]

OPERATOR = {"release": "kube-prometheus-stack"}
# Of the plain manifests, by the name of a directory in kustomize/components: what each needs beside it, and its values. Dashboards are
# not among them: they would be written down a second time (docs/operations.md has a command).
COMPONENTS = {
    "exposed": ([], {"api": {"expose": True, "tls": {"secretName": "geophone-tls"}, "token": {"secretName": "geophone-token"}}}),
    "monitor": (["exposed"], {"podMonitor": {"create": True, "labels": OPERATOR}}),
    "networkpolicy": (
        ["exposed"],
        {
            "networkPolicy": {
                "create": True,
                "scrapeFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            }
        },
    ),
    "rules": ([], {"prometheusRule": {"create": True, "labels": OPERATOR}}),
    # By the environment, as stacks too: it leaves the settings to who has them.
    "peers": ([], {"kubernetes": {"peers": True}}),
    "stacks": (
        [],
        {
            "env": [{"name": "GEOPHONE_PROBES__PROFILE__ENABLED", "value": "true"}],
            "capabilities": ["BPF", "PERFMON", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "SYSLOG"],
            "resources": {"limits": {"memory": "1536Mi"}},
        },
    ),
}
