//! How fast an interface's link is, where it has one.

/// Link speed in bytes per second. rtnetlink does not have it; sysfs asks the driver as ethtool does.
pub(super) fn speed(name: &str) -> Option<f64> {
    if name.contains('/') || !has_hardware(name) {
        return None;
    }
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
    let megabits: i64 = text.trim().parse().ok()?;
    (megabits > 0).then_some(megabits as f64 * 1e6 / 8.0)
}

/// Whether an interface is hardware, or made of others (bond, team, VLAN). Drivers of what is only software name a speed too,
/// whatever it carries: veth 10 Gb/s, tun 10 Mb/s before Linux 6.3, a bridge that of its ports.
fn has_hardware(name: &str) -> bool {
    let entries = std::fs::read_dir(format!("/sys/class/net/{name}"));
    let names: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    let has = |prefix: &str| {
        names
            .iter()
            .any(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    };
    has("device") || has("lower_") && !has("bridge")
}
