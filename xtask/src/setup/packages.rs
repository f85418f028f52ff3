//! What is needed, what for, how its presence shows, and which Debian package brings it.

use std::path::Path;

use crate::toolchain::find;

/// Something that must be installed.
pub struct Need {
    /// Programs on the path, or absolute files: all of them must be there.
    pub proof: &'static [&'static str],
    /// The Debian package that has them.
    pub package: &'static str,
    /// What it is for.
    pub why: &'static str,
}

const fn need(proof: &'static [&'static str], package: &'static str, why: &'static str) -> Need {
    Need { proof, package, why }
}

impl Need {
    /// Whether it is already there.
    pub fn met(&self) -> bool {
        let there = |proof: &&str| {
            if proof.starts_with('/') {
                Path::new(proof).exists()
            } else {
                find(proof).is_some()
            }
        };
        self.proof.iter().all(there)
    }
}

/// To build the agent, beside the eBPF compiler and linker.
pub const BUILD: &[Need] = &[need(
    &["cc", "ar"],
    "build-essential",
    "linker and C compiler of the Rust build",
)];

/// Debian's Rust, new enough for eBPF, with the source of its library.
pub const COMPILER: &[Need] = &[
    need(
        &["/usr/bin/rustc"],
        "rustc-web",
        "Rust compiler for eBPF (this machine has none with rust-src)",
    ),
    need(&["/usr/bin/cargo"], "cargo-web", "its cargo"),
    need(
        &["/usr/lib/rustlib/src/rust/library/core"],
        "rust-web-src",
        "source of `core`, which is built for eBPF",
    ),
];

/// To build bpf-linker.
pub const LINKER: &[Need] = &[
    need(
        &["/usr/lib/llvm-22/bin/llvm-config"],
        "llvm-22-dev",
        "LLVM that bpf-linker is built against",
    ),
    need(
        &["/usr/lib/llvm-22/lib/libPolly.a"],
        "libpolly-22-dev",
        "asked for by LLVM's link line",
    ),
    need(
        &["/usr/include/zstd.h"],
        "libzstd-dev",
        "asked for by LLVM's link line",
    ),
];

/// To lint the eBPF crate for its own target, when Debian's compiler builds it.
pub const CLIPPY: &[Need] = &[need(
    &["/usr/bin/clippy-driver", "/usr/bin/cargo-clippy"],
    "rust-web-clippy",
    "clippy on the eBPF target",
)];

/// To run the end-to-end tests and the virtual machines.
pub const TEST: &[Need] = &[
    need(
        &["ip", "tc", "ss"],
        "iproute2",
        "network namespaces, links and loss",
    ),
    need(&["ping"], "iputils-ping", "traffic of the tests"),
    need(&["wireguard-go"], "wireguard-go", "tunnels of the tests"),
    need(&["wg"], "wireguard-tools", "tunnels of the tests"),
    need(&["openvpn"], "openvpn", "tunnels of the tests"),
    need(&["tcpdump"], "tcpdump", "counts packets beside the agent"),
    need(&["perl"], "perl-base", "traffic in the virtual machines"),
    need(&["nft"], "nftables", "drops and loss of the tests"),
    need(
        &["ethtool"],
        "ethtool",
        "offloads off, so that each segment counts",
    ),
    need(&["iperf3"], "iperf3", "traffic of the tests"),
    need(&["dnsmasq"], "dnsmasq-base", "a DNS server for the tests"),
    need(&["dig"], "bind9-dnsutils", "a DNS client for the tests"),
    need(&["python3"], "python3", "odd clients and servers of the tests"),
    need(
        &["/usr/lib/python3/dist-packages/aiosmtpd"],
        "python3-aiosmtpd",
        "a mail server for the tests",
    ),
    need(&["curl"], "curl", "HTTP clients of the tests"),
    need(&["openssl"], "openssl", "certificates of the TLS tests"),
    need(
        &["node"],
        "nodejs",
        "code that is made at run time, and its names",
    ),
    need(&["tmux"], "tmux", "drives the terminal view"),
    need(&["dot"], "graphviz", "reads the graphs of the topology"),
    need(
        &["prometheus", "promtool"],
        "prometheus",
        "scrapes and checks what geophone exports",
    ),
    need(
        &["amtool"],
        "prometheus-alertmanager",
        "checks the Alertmanager's configuration of deploy/stack",
    ),
    need(&["shellcheck"], "shellcheck", "checks deploy/install.sh"),
    need(
        &["systemd-analyze"],
        "systemd",
        "checks the unit of deploy/systemd, and runs it in a virtual machine",
    ),
    need(
        &["useradd", "groupadd"],
        "passwd",
        "users of that virtual machine",
    ),
    need(
        &["setpriv", "unshare"],
        "util-linux",
        "tests without root and with fewer capabilities",
    ),
    need(&["runc"], "runc", "starts the container image"),
    need(
        &["/usr/share/containers/seccomp.json"],
        "golang-github-containers-common",
        "a runtime's own profile of system calls, for the container image",
    ),
    need(&["gzip"], "gzip", "packs the container image"),
    need(
        &["qemu-system-x86_64"],
        "qemu-system-x86",
        "virtual machines with other kernels",
    ),
    need(
        &["/usr/share/doc/busybox-static"],
        "busybox-static",
        "user space of the virtual machines",
    ),
    need(
        &["bpftool"],
        "bpftool",
        "an independent look at programs and maps",
    ),
    need(&["cpio"], "cpio", "their initial file system"),
    need(&["modprobe", "depmod"], "kmod", "their kernel modules"),
    need(&["xz"], "xz-utils", "their kernel modules"),
    need(&["zstd"], "zstd", "their kernels"),
    need(&["lz4"], "lz4", "their kernels"),
    need(&["strip"], "binutils", "a smaller binary for them"),
];

/// To check what is in deploy/, with what `registries` brings.
pub const DEPLOY: &[Need] = &[
    need(
        &["/usr/share/doc/python3-venv"],
        "python3-venv",
        "a place for Helm as a Python library",
    ),
    need(&["npm"], "npm", "brings Grafana's own types"),
    need(
        &["docker-compose"],
        "docker-compose",
        "reads the compose file of deploy/stack",
    ),
    need(
        &["vmagent"],
        "victoria-metrics",
        "checks vmagent's configuration of deploy/stack",
    ),
];

/// To build for arm64 elsewhere and to emulate it, besides Debian's Rust.
pub const ARM64: &[Need] = &[
    need(
        &["aarch64-linux-gnu-gcc"],
        "gcc-aarch64-linux-gnu",
        "linker and C compiler for arm64",
    ),
    need(
        &["/usr/aarch64-linux-gnu/lib/libc.a"],
        "libc6-dev-arm64-cross",
        "C library for arm64",
    ),
    need(
        &["qemu-system-aarch64"],
        "qemu-system-arm",
        "virtual machines of arm64",
    ),
];

/// To run the benchmarks.
pub const BENCH: &[Need] = &[
    need(&["nginx"], "nginx-light", "observed workload"),
    need(&["wrk"], "wrk", "observed workload"),
    need(&["iperf3"], "iperf3", "observed workload"),
    need(&["bpftrace"], "bpftrace", "what geophone is compared with"),
    need(
        &["perf"],
        "linux-perf",
        "what geophone is compared with, also by a test",
    ),
    need(
        &["bpftool"],
        "bpftool",
        "an independent look at programs and maps",
    ),
    need(&["ethtool"], "ethtool", "offloads of the observed workload"),
    need(&["pmacctd"], "pmacct", "what geophone is compared with"),
    need(&["softflowd"], "softflowd", "what geophone is compared with"),
    need(
        &["prometheus", "promtool"],
        "prometheus",
        "what the store is compared with",
    ),
    need(
        &["victoria-metrics"],
        "victoria-metrics",
        "what the store is compared with",
    ),
    need(
        &["prometheus-node-exporter"],
        "prometheus-node-exporter",
        "what geophone is compared with",
    ),
];
