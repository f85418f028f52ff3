//! Network namespaces: the agent's own, and those that the configuration names. What is asked and done in another one is
//! done on a thread of its own that has entered it: the collector's thread never leaves home.

use super::Programs;
use super::devices::{self, Tunnels};
use super::ends::end;
use super::{Options, metrics};
use crate::bpf::tc::Place;
use crate::bpf::{Engine, host};
use crate::config::Glob;
use crate::error::{Context as _, Error, Result};
use crate::probes::watch::{Means, Underlay, WAYS, Watch, alone};
use crate::record::{Past, Source};
use crate::rtnetlink::Rtnetlink;
use agent_common::tunnel::EndKey;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where `ip netns` keeps them.
const NAMED: &str = "/run/netns";
/// Fact: the namespaces that are looked at.
const NAMESPACES: &str = "tunnel namespaces";

/// What is looked for, and with what.
pub(super) struct Looking<'a> {
    pub options: &'a Options,
    pub source: &'a Source,
    pub programs: &'a mut Programs,
    pub engine: &'a mut Engine,
    /// Nothing is to be attached.
    pub paused: bool,
    /// To be called when something went by unseen.
    pub blind: &'a mut (dyn FnMut() + Send),
    pub now: Instant,
    /// Where new series begin.
    pub unix_nanos: u64,
}

/// A namespace that is looked at.
pub(super) struct Namespace {
    /// As it is told; empty = the agent's own.
    pub name: String,
    /// In the keys of its rows; 0 = the agent's own.
    pub number: u16,
    /// Its inode, by which the kernel's other programs know it.
    pub inode: u32,
    /// Keeps it alive until it is let go; `None` = the agent's own.
    file: Option<File>,
    /// By interface index.
    pub watches: BTreeMap<u32, Watch>,
    /// UDP ports of its devices.
    pub ports: BTreeMap<u16, u8>,
    /// Other ends that are named in it.
    pub ends: BTreeSet<EndKey>,
    /// Held while no other agent watches this namespace.
    alone: Option<UnixListener>,
    pub failing: bool,
}

impl Namespace {
    /// The agent's own.
    pub fn own() -> Self {
        Self::new(String::new(), 0, host::own_netns(), None)
    }

    fn new(name: String, number: u16, inode: u32, file: Option<File>) -> Self {
        let mut own = Self::recorded(name, number, inode);
        own.alone = enter(file.as_ref(), || alone("tunnel")).ok().flatten();
        own.file = file;
        own
    }

    /// One of a recording: nobody enters it.
    fn recorded(name: String, number: u16, inode: u32) -> Self {
        Self {
            alone: None,
            file: None,
            name,
            number,
            inode,
            watches: BTreeMap::new(),
            ports: BTreeMap::new(),
            ends: BTreeSet::new(),
            failing: false,
        }
    }

    /// Looks which devices carry tunnels now, and puts the programs where they belong. Returns the tunnel devices, and
    /// whether anything has changed.
    pub fn look(&mut self, looking: &mut Looking<'_>) -> Result<(Tunnels, bool)> {
        let Self {
            name,
            number,
            watches,
            ports,
            ends,
            alone,
            file,
            ..
        } = self;
        enter(file.as_ref(), || {
            let (options, now) = (looking.options, looking.now);
            let mut failed = None;
            let live = || {
                let found = Rtnetlink::open().and_then(|rtnetlink| {
                    devices::find(&rtnetlink, &options.ports, &options.devices, options.always)
                });
                found.map_err(|error| failed = Some(error)).ok()
            };
            let found = looking.source.ask(&format!("tunnel devices {number}"), live);
            let Some(found) = found.flatten() else {
                return Err(failed.unwrap_or_else(|| Error::new("the recording does not know its devices")));
            };
            *ports = found.ports;
            let named = found.ends.into_iter();
            *ends = named.filter_map(|(kind, to)| end(kind, to, *number)).collect();
            let before = watches.len();
            // A device that is gone, or of another kind now, takes its links with it.
            watches.retain(|index, watch| found.underlays.get(index) == Some(&watch.underlay));
            let mut changed = watches.len() != before;
            for (index, underlay) in found.underlays {
                let watch = watches.entry(index).or_insert_with(|| {
                    changed = true;
                    Watch::new(underlay, name, &metrics::WATCH, now, looking.unix_nanos)
                });
                if looking.paused {
                    changed |= watch.pause(now);
                    continue;
                }
                for way in WAYS {
                    let Some(program) = looking
                        .programs
                        .ready(looking.engine, &watch.underlay, way, *number)
                    else {
                        continue;
                    };
                    let place = Place {
                        ifindex: index,
                        way,
                        netns: *number,
                    };
                    let mut means = Means {
                        probe: "tunnel",
                        engine: looking.engine,
                        blind: looking.blind,
                        alone: alone.is_some(),
                        now,
                    };
                    changed |= watch.keep(&mut means, program, place);
                }
            }
            Ok((found.tunnels, changed))
        })?
    }

    /// What is watched in it, as the table of programs names it.
    pub fn device(&self, underlay: &Underlay) -> String {
        if self.name.is_empty() {
            underlay.name.clone()
        } else {
            format!("{}:{}", self.name, underlay.name)
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A clsact filter can be removed only from inside.
        let watches = std::mem::take(&mut self.watches);
        let _ = enter(self.file.as_ref(), || drop(watches));
    }
}

/// Runs `f` in a namespace.
fn enter<T: Send>(netns: Option<&File>, f: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(file) = netns else { return Ok(f()) };
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
                Ok(f())
            })
            .context("a thread for a network namespace")?;
        inside
            .join()
            .unwrap_or_else(|_| Err(Error::new("the thread of a network namespace has panicked")))
    })
}

/// Brings the list up to date: namespaces that a pattern names now come in, those whose file is gone leave. Returns
/// whether anything has changed. The first of the list is the agent's own.
pub(super) fn refresh(
    patterns: &[Glob],
    known: &mut Vec<Namespace>,
    last: &mut u16,
    source: &Source,
) -> bool {
    if let Some(past) = source.past() {
        return recall(past, known);
    }
    let changed = find(patterns, known, last);
    let told = |n: &Namespace| Told {
        name: n.name.clone(),
        number: n.number,
        inode: n.inode,
    };
    source.tell(NAMESPACES, || known.iter().map(told).collect::<Vec<_>>());
    changed
}

/// A namespace as a recording knows it.
#[derive(Serialize, Deserialize)]
struct Told {
    name: String,
    number: u16,
    inode: u32,
}

impl Told {
    fn is(&self, known: &Namespace) -> bool {
        (&self.name, self.number, self.inode) == (&known.name, known.number, known.inode)
    }
}

/// The same of a recording.
fn recall(past: &Past, known: &mut Vec<Namespace>) -> bool {
    let told: Vec<Told> = past.fact(NAMESPACES).unwrap_or_default();
    let before = known.len();
    known.retain(|n| told.iter().any(|t| t.is(n)));
    let mut changed = known.len() != before;
    for one in told {
        if !known.iter().any(|n| one.is(n)) {
            known.push(Namespace::recorded(one.name, one.number, one.inode));
            changed = true;
        }
    }
    changed
}

fn find(patterns: &[Glob], known: &mut Vec<Namespace>, last: &mut u16) -> bool {
    let own = host::own_netns();
    let mut there: BTreeMap<u32, (String, PathBuf)> = BTreeMap::new();
    for pattern in patterns {
        for path in matching(pattern) {
            let inode = std::fs::metadata(&path).map_or(0, |m| m.ino() as u32);
            let name = path.strip_prefix(NAMED).unwrap_or(&path).display().to_string();
            if inode != own && inode != 0 {
                there.entry(inode).or_insert((name, path));
            }
        }
    }
    let before = known.len();
    known.retain(|n| n.number == 0 || there.get(&n.inode).is_some_and(|(name, _)| *name == n.name));
    let mut changed = known.len() != before;
    for (inode, (name, path)) in there {
        if known.iter().any(|n| n.inode == inode) {
            continue;
        }
        // Numbers come again after 65,535 namespaces; rows of the old one have long been given back.
        let free = (1..=u16::MAX)
            .map(|i| last.wrapping_add(i))
            .find(|number| *number != 0 && known.iter().all(|n| n.number != *number));
        // Whatever somebody has put there: a pipe must not hold us up.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let (Ok(file), Some(number)) = (opened, free) else {
            continue;
        };
        // What is left of a namespace that is gone is a plain file: nobody can enter it.
        if enter(Some(&file), || ()).is_err() {
            continue;
        }
        tracing::info!("probe tunnel: network namespace {name} is looked at");
        *last = number;
        known.push(Namespace::new(name, number, inode, Some(file)));
        changed = true;
    }
    changed
}

/// Files that a pattern names: of `/run/netns`, or with a directory of its own before the last slash.
fn matching(pattern: &Glob) -> Vec<PathBuf> {
    let text = pattern.to_string();
    let (directory, name) = text.rsplit_once('/').unwrap_or((NAMED, &text));
    let Ok(name) = name.parse::<Glob>() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(Path::new(directory)).into_iter().flatten();
    let named = |entry: &std::fs::DirEntry| name.matches(&entry.file_name().to_string_lossy());
    entries
        .flatten()
        .filter(named)
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_files() {
        let find = |pattern: &str| matching(&pattern.parse().unwrap());
        assert_eq!(find("/proc/self/ns/ne?"), [PathBuf::from("/proc/self/ns/net")]);
        assert!(find("/proc/self/ns/*").len() > 3);
        assert!(find("there-is-no-such-namespace").is_empty());
        assert!(find("/nowhere/*").is_empty());
    }

    #[test]
    fn the_own_namespace_is_there_once() {
        let patterns = ["/proc/self/ns/net".parse().unwrap()];
        let mut known = vec![Namespace::own()];
        assert!(!refresh(&patterns, &mut known, &mut 0, &Source::Kernel));
        assert_eq!(known.len(), 1);
    }
}
