use super::*;
use Kind::*;

const ID: &str = "3f4e1a2b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607";
const ID2: &str = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999";
const POD: &str = "6c9ae3d4-0d2f-4a5e-9a41-5f1f0d2c7b11";
const POD_: &str = "6c9ae3d4_0d2f_4a5e_9a41_5f1f0d2c7b11";

#[test]
fn containers() {
    let path = |text: &str| {
        text.replace("ID2", ID2)
            .replace("ID", ID)
            .replace("POD_", POD_)
            .replace("POD", POD)
    };
    // path, id, pod, unit
    let table: &[(&str, &str, Option<&str>, Option<&str>)] = &[
        ("/docker/ID", ID, None, None),
        ("/docker/ID/", ID, None, None),
        ("docker/ID", ID, None, None),
        ("/system.slice/docker-ID.scope", ID, None, None),
        ("/system.slice/docker-ID.scope (deleted)", ID, None, None),
        (
            "/system.slice/docker-ID.scope/system.slice/nginx.service",
            ID,
            None,
            Some("nginx.service"),
        ),
        (
            "/system.slice/docker-ID.scope/init.scope",
            ID,
            None,
            Some("init.scope"),
        ),
        ("/docker/ID2/docker/ID", ID, None, None),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-ID.scope",
            ID,
            None,
            None,
        ),
        ("/kubepods/burstable/podPOD/ID", ID, Some(POD), None),
        ("/kubepods/podPOD/ID", ID, Some(POD), None),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
            ID,
            Some(POD),
            None,
        ),
        (
            "/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope",
            ID,
            Some(POD),
            None,
        ),
        (
            "/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope/container",
            ID,
            Some(POD),
            None,
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podPOD_.slice/cri-containerd-ID.scope",
            ID,
            Some(POD),
            None,
        ),
        (
            "/system.slice/containerd.service/kubepods-burstable-podPOD_.slice:cri-containerd:ID",
            ID,
            Some(POD),
            None,
        ),
        (
            "/kubepods/burstable/pod0f1e2d3c4b5a69788796a5b4c3d2e1f0/ID",
            ID,
            Some("0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
            None,
        ),
        ("/machine.slice/libpod-ID.scope", ID, None, None),
        ("/machine.slice/libpod-ID.scope/container", ID, None, None),
        (
            "/machine.slice/machine-libpod_pod_ID2.slice/libpod-ID.scope",
            ID,
            None,
            None,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            ID,
            None,
            None,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_ID2.slice/libpod-ID.scope/container",
            ID,
            None,
            None,
        ),
        ("/system.slice/nerdctl-ID.scope", ID, None, None),
        ("/kubepods/burstable/podPOD/crio-ID", ID, Some(POD), None),
        ("/libpod_parent/libpod-ID", ID, None, None),
        ("/libpod_parent/libpod-ID/container", ID, None, None),
        ("/system.slice/web.service/libpod-payload-ID", ID, None, None),
        (
            "/QM.slice/qm.service/libpod-payload-ID/system.slice/ssh.service",
            ID,
            None,
            Some("ssh.service"),
        ),
        ("/default/ID", ID, None, None),
        ("/system.slice/isulad-ID.scope", ID, None, None),
        ("/ecs/0123456789abcdef0123456789abcdef/ID", ID, None, None),
        (
            "/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567",
            "0123456789abcdef0123456789abcdef-1234567",
            None,
            None,
        ),
        (
            "/system.slice/docker-0123456789ab.scope",
            "0123456789ab",
            None,
            None,
        ),
        (
            "/lxc/web/ns/system.slice/ssh.service",
            "web",
            None,
            Some("ssh.service"),
        ),
        ("/lxc.payload.web", "web", None, None),
        ("/lxc.payload/web-1", "web-1", None, None),
        (
            "/machine.slice/systemd-nspawn@build.service/payload/system.slice/nginx.service",
            "build",
            None,
            Some("nginx.service"),
        ),
        (
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
            "qemu-1-vm",
            None,
            None,
        ),
        ("/../../docker/ID", ID, None, None),
    ];
    for (text, id, pod, unit) in table {
        let workload = parse(path(text).as_bytes()).unwrap();
        assert_eq!(workload.kind, Container, "{text}");
        assert_eq!(workload.container_id.as_deref(), Some(*id), "{text}");
        assert_eq!(workload.pod_uid.as_deref(), *pod, "{text}");
        assert_eq!(workload.unit.as_deref(), *unit, "{text}");
    }
    assert_eq!(
        parse(path("/docker/ID").as_bytes()).unwrap().label(),
        "3f4e1a2b5c6d"
    );
    assert_eq!(
        parse(b"/lxc/a-rather-long-name-of-mine").unwrap().label(),
        "a-rather-long-name-of-mine"
    );
}

/// Cause: podman's containers in units of their own, one of them with units inside. Seen: the unit that runs them, as long as no file
/// of podman's tells a name, as of another user's there is none that is looked at.
#[test]
fn a_quadlet_is_called_after_its_unit() {
    for inside in ["", "/container", "/system.slice/ssh.service"] {
        let text =
            format!("/user.slice/user@1000.service/app.slice/my\\x2dweb.service/libpod-payload-{ID}{inside}");
        assert_eq!(
            parse(text.as_bytes()).unwrap().label(),
            "my-web.service",
            "{text}"
        );
    }
    let text = format!("/system.slice/web.service/libpod-payload-{ID}/libpod-{ID2}");
    assert_eq!(Some(parse(text.as_bytes()).unwrap().label()), ID2.get(..SHORT_ID));
}

#[test]
fn everything_else() {
    let long_hex = "a".repeat(65);
    let table: &[(&str, Kind, &str)] = &[
        ("/system.slice/nginx.service", Unit, "nginx.service"),
        ("/system.slice/nginx.service/worker/1", Unit, "nginx.service"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            Unit,
            "getty@tty1.service",
        ),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            Unit,
            "session-3.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
            Unit,
            "app-x.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome\\x2dterminal.scope",
            Unit,
            "app-gnome-terminal.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            Unit,
            "user@1000.service",
        ),
        ("/init.scope", Unit, "init.scope"),
        ("/system.slice/bad\\x2.service", Unit, "bad\\x2.service"),
        (
            "/system.slice/bad\\xzz\\x+1.service",
            Unit,
            "bad\\xzz\\x+1.service",
        ),
        ("/system.slice", Slice, "system.slice"),
        ("/user.slice/user-1000.slice", Slice, "user-1000.slice"),
        (
            "/kubepods/burstable/pod6c9ae3d4-0d2f-4a5e-9a41-5f1f0d2c7b11",
            Pod,
            "pod6c9ae3d4-0d2f-4a5e-9a41-5f1f0d2c7b11",
        ),
        (
            "/kubepods.slice/kubepods-podzzz.slice",
            Slice,
            "kubepods-podzzz.slice",
        ),
        ("/a/web", Group, "a/web"),
        ("/b/web", Group, "b/web"),
        (
            "/process_api/afcb2c60b2466b1680e4297847cd4be2",
            Group,
            "process_api/afcb2c60b2466b1680e4297847cd4be2",
        ),
        // ids that are none
        ("/docker/not-an-id", Group, "docker/not-an-id"),
        ("/docker/buildx", Group, "docker/buildx"),
        ("/kubepods/crio-0123456789ab", Group, "kubepods/crio-0123456789ab"),
        ("/system.slice/web.service/libpod-payload-x", Unit, "web.service"),
        ("/system.slice/web.service/runtime", Unit, "web.service"),
        ("/system.slice/docker-XYZ.scope", Unit, "docker-XYZ.scope"),
        ("/system.slice/docker-.scope", Unit, "docker-.scope"),
        ("/system.slice/docker-abc.scope", Unit, "docker-abc.scope"),
        ("/.scope", Group, ".scope"),
        // runtimes' helpers are no containers
        ("/lxc.monitor.web", Group, "lxc.monitor.web"),
        ("/lxc/monitor", Group, "lxc/monitor"),
    ];
    for (text, kind, name) in table {
        let workload = parse(text.as_bytes()).unwrap();
        assert_eq!((workload.kind, workload.name.as_str()), (*kind, *name), "{text}");
        assert_eq!(workload.container_id, None, "{text}");
    }
    for runtime in ["crio-conmon", "libpod-conmon"] {
        for (text, kind) in [
            (format!("/machine.slice/{runtime}-{ID}.scope"), Unit),
            (format!("/conmon/{runtime}-{ID}"), Group),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().kind, kind, "{text}");
        }
    }
    assert_eq!(
        parse(format!("/docker/{long_hex}").as_bytes()).unwrap().kind,
        Group
    );
    for root in ["", "/", "//", "/..", "/../..", " (deleted)"] {
        assert_eq!(parse(root.as_bytes()), None, "{root}");
    }
}

#[test]
fn hostile_paths_are_harmless() {
    let deep = "/a".repeat(1000);
    let long = format!("/{}", "x".repeat(4096));
    let wide = format!("/{}", "é".repeat(2048));
    let pods = format!("/{}", "-pod".repeat(1000)) + ".slice";
    let escapes = format!("/{}.service", "\\x2f".repeat(1000));
    for text in [&deep, &long, &wide, &pods, &escapes] {
        parse(text.as_bytes()).unwrap();
    }
    assert!(parse(deep.as_bytes()).unwrap().name.len() <= LONGEST_NAME + 3);
    assert!(parse(deep.as_bytes()).unwrap().name.starts_with("…/a/a"));
    assert_eq!(parse(b"/\xff\xfe\n\x1b[2J").unwrap().kind, Group);
    assert_eq!(parse(b"/\xff.service").unwrap().name, "\u{fffd}.service");
    let mut seed = 1u64;
    let words = [
        "docker-",
        "pod",
        "/",
        "\\x",
        "-",
        ".scope",
        ".slice",
        ":",
        "lxc",
        "\n",
        "é",
        ID,
        POD,
        "machine.slice",
    ];
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..(seed >> 60) {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            text.push_str(words[(seed >> 33) as usize % words.len()]);
        }
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        if let Some(workload) = parse(text.as_bytes()) {
            assert!(!workload.label().is_empty() || workload.name.is_empty(), "{text}");
        }
    }
}

#[test]
fn the_hierarchy_that_says_most_is_taken() {
    let of = |text: String| parse_proc(text.as_bytes()).map(|w| w.label().to_owned());
    assert_eq!(
        of("0::/system.slice/nginx.service\n".into()).as_deref(),
        Some("nginx.service")
    );
    // A hybrid host, and a runtime that starts containers without systemd.
    let hybrid =
        format!("1:name=systemd:/kubepods/burstable/pod{POD}/{ID}\n0::/system.slice/containerd.service\n");
    assert_eq!(of(hybrid).as_deref(), Some("3f4e1a2b5c6d"));
    assert_eq!(
        of(format!("9:name=systemd:/\n4:memory:/docker/{ID}\n0::/\n")).as_deref(),
        Some("3f4e1a2b5c6d")
    );
    assert_eq!(
        of(format!(
            "9:name=systemd:/system.slice/a.service\n4:cpu,cpuacct:/docker/{ID}\n"
        ))
        .as_deref(),
        Some("3f4e1a2b5c6d")
    );
    assert_eq!(
        of("9:name=systemd:/system.slice/a.service\n1:cpu:/\n".into()).as_deref(),
        Some("a.service")
    );
    assert_eq!(
        of("4:memory:/process_api/x\n0::/\n".into()).as_deref(),
        Some("process_api/x")
    );
    assert_eq!(of("1:cpu:/a:b:c\n".into()).as_deref(), Some("a:b:c"));
    for nothing in ["", "\n", "garbage", "::", "0::/\n", "1:cpu:/\n"] {
        assert_eq!(of(nothing.into()), None, "{nothing}");
    }
}
