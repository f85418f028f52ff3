//! What the kernel writes, and what is made of it.

use super::*;

/// A /proc with these files.
fn proc(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    home
}

fn node(home: &tempfile::TempDir) -> Node {
    Node::at(Options { max_devices: 4 }, home.path())
}

fn used(node: &Node, resource: &'static str) -> Option<(f64, Option<f64>)> {
    node.uses.get(&(resource, String::new())).copied()
}

#[test]
fn each_resource_is_read_as_the_kernel_writes_it() {
    let home = proc(&[
        (
            "meminfo",
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        ),
        (
            "net/sockstat",
            "sockets: used 9\nTCP: inuse 5 orphan 3 tw 7 alloc 9 mem 2\nUDP: inuse 1 mem 4\n",
        ),
        ("sys/net/ipv4/tcp_mem", "10\t20\t30\n"),
        ("sys/net/ipv4/tcp_max_orphans", "64\n"),
        ("sys/net/netfilter/nf_conntrack_count", "12\n"),
        ("sys/net/netfilter/nf_conntrack_max", "48\n"),
        ("sys/fs/file-nr", "1024\t0\t9223372036854775807\n"),
        ("loadavg", "0.1 0.2 0.3 2/345 6789\n"),
        ("sys/kernel/threads-max", "9000\n"),
        ("sys/kernel/pid_max", "4000\n"),
        (
            "net/stat/arp_cache",
            "entries  allocs\n0000001f 00000001\n0000001f 00000002\n",
        ),
        ("sys/net/ipv4/neigh/default/gc_thresh3", "1024\n"),
        (
            "pressure/io",
            "some avg10=0.00 total=1500000\nfull avg10=0.00 total=500000\n",
        ),
    ]);
    let mut node = node(&home);
    node.update(&Source::Kernel);
    assert_eq!(
        used(&node, "memory"),
        Some((750.0 * 1024.0, Some(1000.0 * 1024.0)))
    );
    assert_eq!(used(&node, "swap"), None, "there is none");
    let page = page_size().unwrap();
    assert_eq!(used(&node, "tcp_memory"), Some((2.0 * page, Some(30.0 * page))));
    assert_eq!(used(&node, "tcp_orphans"), Some((3.0, Some(64.0))));
    assert_eq!(
        used(&node, "tcp_time_wait"),
        Some((7.0, None)),
        "a limit that cannot be read is not invented"
    );
    assert_eq!(used(&node, "conntrack"), Some((12.0, Some(48.0))));
    assert_eq!(used(&node, "file_descriptors"), Some((1024.0, None)));
    assert_eq!(used(&node, "threads"), Some((345.0, Some(4000.0))));
    assert_eq!(used(&node, "neighbours"), Some((31.0, Some(1024.0))));
    assert_eq!(node.pressure.get(&("io", "full")), Some(&500_000));
    assert_eq!(node.pressure.get(&("cpu", "some")), None);
}

#[test]
fn every_resource_that_is_read_has_its_name_in_the_list() {
    let node = Node::new(Options { max_devices: 4 });
    for (name, ..) in node.seen().uses {
        assert!(own(&RESOURCES, &name).is_some(), "{name}");
    }
}

#[test]
fn busy_cores_are_those_since_the_last_tick() {
    let home = proc(&[(
        "stat",
        "cpu 100 0 100 800 0 0 0 0 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n",
    )]);
    let mut node = node(&home);
    node.update(&Source::Kernel);
    assert_eq!(used(&node, "cpu"), None, "of the time before it is not known");
    // A quarter of 200 ticks is idle.
    std::fs::write(
        home.path().join("stat"),
        "cpu 200 0 150 840 10 0 0 0 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n",
    )
    .unwrap();
    node.update(&Source::Kernel);
    assert_eq!(used(&node, "cpu"), Some((1.5, Some(2.0))));
}

#[test]
fn series_keep_their_labels_and_go_with_what_they_count() {
    let home = proc(&[
        ("sys/net/netfilter/nf_conntrack_count", "12\n"),
        ("pressure/cpu", "some total=1\n"),
    ]);
    let mut node = node(&home);
    let mut collect = || {
        node.update(&Source::Kernel);
        let mut out = Vec::new();
        node.collect(&mut out);
        out.into_iter()
            .flat_map(|family| family.series)
            .map(|series| series.labels)
            .collect::<Vec<_>>()
    };
    let (first, second) = (collect(), collect());
    assert_eq!(first.len(), 2);
    assert!(first.iter().zip(&second).all(|(a, b)| Arc::ptr_eq(a, b)));
    std::fs::remove_file(home.path().join("sys/net/netfilter/nf_conntrack_count")).unwrap();
    assert_eq!(collect().len(), 1, "the module was unloaded");
}
