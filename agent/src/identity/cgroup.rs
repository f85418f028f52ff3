//! From the path of a cgroup to what runs in it. Pure; whoever may create a cgroup chooses these bytes.

/// Digits of a container id that make a label.
pub const SHORT_ID: usize = 12;
/// Bytes of a path that make the name of a cgroup nobody else names.
const LONGEST_NAME: usize = 100;
/// Before the id of a container that podman runs inside of the unit that started it.
const PAYLOAD: &str = "libpod-payload-";

/// What kind of thing a cgroup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container, or a virtual machine known to systemd-machined.
    Container,
    /// A Kubernetes pod, outside its containers.
    Pod,
    /// A systemd unit: service, scope, socket.
    Unit,
    /// A systemd slice, outside its units.
    Slice,
    /// Any other cgroup.
    Group,
}

/// What runs in a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is.
    pub kind: Kind,
    /// How it is called: id of the container (of podman's in a unit of its own, a quadlet, that unit), unit without systemd's
    /// escapes, slice, or the path.
    pub name: String,
    /// Full id of the container.
    pub container_id: Option<String>,
    /// UID of the Kubernetes pod.
    pub pod_uid: Option<String>,
    /// systemd unit as systemd writes it; inside a container: the container's own unit.
    pub unit: Option<String>,
    /// Its path below the root of the hierarchy, with a slash before each part.
    pub path: String,
}

impl Workload {
    /// Short name for a label: the first [`SHORT_ID`] digits of a container id, else [`Self::name`].
    pub fn label(&self) -> &str {
        if self.kind == Kind::Container && is_hex(&self.name) {
            return self.name.get(..SHORT_ID).unwrap_or(&self.name);
        }
        &self.name
    }
}

/// Reads a path relative to the root of the hierarchy. `None` for the root itself.
pub fn parse(path: &[u8]) -> Option<Workload> {
    let path = String::from_utf8_lossy(path.strip_suffix(b" (deleted)").unwrap_or(path));
    let mut container = None;
    let mut quadlet = None;
    let mut pod_uid = None;
    let mut unit = None;
    let mut machine = false;
    let mut last = "";
    let mut before = "";
    let mut whole = String::new();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != "." && *part != "..")
    {
        whole.push('/');
        whole.push_str(part);
        if let Some(uid) = pod(part) {
            pod_uid = Some(uid);
        }
        if let Some(id) = container_id(before, part) {
            container = Some(id);
            quadlet = unit.filter(|_| part.starts_with(PAYLOAD));
            unit = None;
        } else if !machine && let Some(name) = machine_name(before, part) {
            (container, unit, machine) = (Some(name), None, true);
        } else if is_unit(part) && !(part == "init.scope" && unit.is_some()) {
            unit = Some(part);
        }
        (before, last) = (part, part);
    }
    if last.is_empty() {
        return None;
    }
    let (kind, name) = match (&container, &pod_uid, unit) {
        (Some(id), _, _) => (Kind::Container, quadlet.map_or_else(|| id.clone(), unescape)),
        (None, Some(uid), _) => (Kind::Pod, format!("pod{uid}")),
        (None, None, Some(unit)) => (Kind::Unit, unescape(unit)),
        (None, None, None) if last.ends_with(".slice") => (Kind::Slice, unescape(last)),
        (None, None, None) => (Kind::Group, tail(&path)),
    };
    Some(Workload {
        kind,
        name,
        container_id: container,
        pod_uid,
        unit: unit.map(str::to_owned),
        path: whole,
    })
}

/// Reads `/proc/PID/cgroup`: a container or a pod wherever one is told, else the unified hierarchy if it says something, else the
/// controllers of version 1. On a hybrid host what a runtime without systemd starts is a container for those only, and for the
/// unified hierarchy the runtime's own unit.
pub fn parse_proc(content: &[u8]) -> Option<Workload> {
    let lines = || content.split(|b| *b == b'\n').filter_map(line);
    let of = |wanted: &dyn Fn(&Workload) -> bool| {
        let unified = lines().filter(|(number, ..)| number == b"0");
        let version1 = [&b"name=systemd"[..], b"memory", b"cpu", b"pids"]
            .into_iter()
            .flat_map(|controller| {
                lines().filter(move |(_, controllers, _)| {
                    controllers.split(|b| *b == b',').any(|c| c == controller)
                })
            });
        unified
            .chain(version1)
            .find_map(|(.., path)| parse(path).filter(wanted))
    };
    of(&|w| w.kind == Kind::Container)
        .or_else(|| of(&|w| w.kind == Kind::Pod))
        .or_else(|| of(&|w| w.kind == Kind::Unit))
        .or_else(|| of(&|_| true))
}

/// `hierarchy:controllers:path`
fn line(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut fields = line.splitn(3, |b| *b == b':');
    Some((fields.next()?, fields.next()?, fields.next()?))
}

fn container_id(parent: &str, part: &str) -> Option<String> {
    // containerd that was told the wrong cgroup driver: `kubepods-….slice:cri-containerd:<id>`
    let part = part.rsplit(':').next().unwrap_or(part);
    if part.len() == 64 && is_hex(part) {
        return Some(part.to_owned());
    }
    if is_fargate(part) {
        return Some(part.to_owned());
    }
    if let Some(scope) = part.strip_suffix(".scope") {
        let (runtime, id) = scope.rsplit_once('-')?;
        let known = matches!(
            runtime,
            "docker" | "cri-containerd" | "crio" | "libpod" | "nerdctl"
        );
        let lengths = if known { SHORT_ID..=64 } else { 64..=64 };
        let fits = is_hex(id) && lengths.contains(&id.len()) && !runtime.ends_with("conmon");
        return fits.then(|| id.to_owned());
    }
    // CRI-O and podman with the driver cgroupfs; their helper's name has another word between.
    let plain = [PAYLOAD, "libpod-", "crio-"]
        .iter()
        .find_map(|runtime| part.strip_prefix(runtime));
    if let Some(id) = plain.filter(|id| id.len() == 64 && is_hex(id)) {
        return Some(id.to_owned());
    }
    let name = match parent {
        "lxc" | "lxc.payload" => part,
        _ => part.strip_prefix("lxc.payload.")?,
    };
    (!name.is_empty() && name != "monitor").then(|| unescape(name))
}

/// `<32 hex>-<digits>`, as ECS on Fargate names containers.
fn is_fargate(part: &str) -> bool {
    part.split_once('-').is_some_and(|(task, number)| {
        task.len() == 32 && is_hex(task) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Name of a machine that systemd-machined or nspawn registered.
fn machine_name(parent: &str, part: &str) -> Option<String> {
    if parent != "machine.slice" {
        return None;
    }
    let name = match part.strip_prefix("systemd-nspawn@") {
        Some(rest) => rest.strip_suffix(".service")?,
        None => part.strip_prefix("machine-")?.strip_suffix(".scope")?,
    };
    (!name.is_empty()).then(|| unescape(name))
}

/// UID in `pod<uid>` or `kubepods-burstable-pod<uid with underscores>.slice`.
fn pod(part: &str) -> Option<String> {
    let part = part.split(':').next().unwrap_or(part);
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1,
        None => part.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let dashed = uid.len() == 36
        && uid.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    // Static pods have the hash of their manifest instead.
    (dashed || (uid.len() == 32 && is_hex(&uid))).then_some(uid)
}

fn is_unit(part: &str) -> bool {
    part.rsplit_once('.').is_some_and(|(name, kind)| {
        !name.is_empty() && matches!(kind, "service" | "scope" | "socket" | "mount" | "swap")
    })
}

fn is_hex(text: &str) -> bool {
    text.len() >= SHORT_ID && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Undoes systemd's `\x2d`.
fn unescape(name: &str) -> String {
    if !name.contains("\\x") {
        return name.to_owned();
    }
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let escaped = bytes.get(at..at + 4).and_then(|e| {
            let digits = std::str::from_utf8(e.strip_prefix(b"\\x")?).ok()?;
            digits
                .bytes()
                .all(|d| d.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(digits, 16).ok())?
        });
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(b);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The path without its first slash; of a long one the end, which tells more.
fn tail(path: &str) -> String {
    let path = path.trim_matches('/');
    if path.len() <= LONGEST_NAME {
        return path.to_owned();
    }
    let mut from = path.len() - LONGEST_NAME;
    while !path.is_char_boundary(from) {
        from += 1;
    }
    let end = path.get(from..).unwrap_or_default();
    format!(
        "…{}",
        end.find('/').and_then(|slash| end.get(slash..)).unwrap_or(end)
    )
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
