//! Who and to whom: cgroups, processes and peers get their names here.

pub mod backends;
pub mod births;
pub mod cache;
pub mod cgroup;
pub mod cgroups;
pub mod cidr;
pub mod kubernetes;
pub mod losses;
pub mod names;
pub mod peers;
pub mod place;
pub mod processes;
pub mod runtimes;
pub mod services;
pub mod symbols;

pub use cgroups::find_cgroup2_root;
pub use peers::{Change, Peer, PeerSettings, Peers, Prefix};

use crate::aggregate::Further;
use crate::aggregate::labels::{clean, text};
use crate::record::Source;
use agent_common::tcp::SubjectKey;
use cache::Cache;
use cgroup::{Kind, Workload};
use cgroups::Cgroups;
use names::Names;
use processes::Processes;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Subjects that are remembered, live and gone ones together.
pub const CAPACITY: usize = 32_768;
/// Label of a subject that nobody can name.
pub const UNKNOWN: &str = "unknown";
/// Further tries to name a subject, and the pause between them.
const RETRIES: u8 = 2;
const PAUSE: Duration = Duration::from_millis(1000);
/// What is asked for names may be away for longer: containers without their final one are asked for again so often.
const AGAIN: Duration = Duration::from_secs(30);

/// Who: names are valid UTF-8 without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Value of the label `subject`: workload, container, unit, slice, other cgroup or process.
    pub label: String,
    /// Labels beside it.
    #[serde(default)]
    pub further: Further,
    /// Name of the process; empty = not known.
    pub process: String,
    /// Its id; 0 = not known, or the subject is a whole cgroup.
    pub pid: u32,
    /// Full id of the container; empty = in none.
    pub container_id: String,
    /// UID of the Kubernetes pod; empty = in none.
    pub pod_uid: String,
    /// systemd unit; empty = in none.
    pub unit: String,
    /// Path of the cgroup; empty = the root, or not known.
    pub cgroup: String,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// False: a better name may still come within two seconds; ask again.
    pub fixed: bool,
}

/// What series call a subject. Subjects of one name are one series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name {
    /// Value of the label `subject`.
    pub label: String,
    /// Labels beside it.
    pub further: Further,
}

impl Name {
    /// Without further labels.
    pub fn plain(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            further: Further::default(),
        }
    }
}

/// Names subjects, and remembers the names past the exit of what they name.
pub struct Identity {
    cgroups: Cgroups,
    processes: Processes,
    names: Names,
    subjects: Cache<SubjectKey, Entry>,
    source: Source,
}

#[derive(Debug)]
struct Entry {
    subject: Arc<Subject>,
    /// As the kernel gave it. Not all that names a subject has it, and whoever asks at the right moment renames it.
    comm: [u8; 16],
    retries: u8,
    /// When to ask again; `None` = there is nothing to wait for.
    next: Option<Instant>,
}

impl Identity {
    /// Reads cgroups below `cgroup2` (see [`find_cgroup2_root`]; `None` = there are none) and processes below `proc`.
    pub fn new(cgroup2: Option<PathBuf>, proc: PathBuf) -> Self {
        Self {
            cgroups: Cgroups::new(cgroup2),
            processes: Processes::new(proc),
            names: Names::default(),
            subjects: Cache::new(CAPACITY),
            source: Source::Kernel,
        }
    }

    /// Of this machine, or of a recording, which has named all subjects; containers have these names.
    pub fn of(names: Names, source: &Source) -> Self {
        let mut own = Self::new(find_cgroup2_root().ok(), PathBuf::from("/proc")).named(names);
        if source.past().is_none() {
            own.cgroups.follow();
        }
        own.source = source.clone();
        own
    }

    /// Which asks these for the names of containers.
    #[must_use]
    pub fn named(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Whose answers are written down, or are those of a recording.
    #[must_use]
    pub fn with(mut self, source: &Source) -> Self {
        self.source = source.clone();
        self
    }

    /// The subject of a key; `comm` is the name of the process as the kernel gave it beside the key, zeros = it did not.
    /// Asked again with the same key it answers the same `Arc`, unless the name was not [fixed](Subject::fixed) yet.
    pub fn subject(&mut self, key: &SubjectKey, comm: &[u8; 16]) -> Arc<Subject> {
        if let Source::Recorded(past) = &self.source {
            let unknown = || Subject {
                label: UNKNOWN.into(),
                fixed: true,
                ..Subject::default()
            };
            return Arc::new(past.fact(&fact(key)).unwrap_or_else(unknown));
        }
        self.subject_at(key, comm, Instant::now())
    }

    /// As [`Self::subject`], at another time.
    pub fn subject_at(&mut self, key: &SubjectKey, comm: &[u8; 16], now: Instant) -> Arc<Subject> {
        let (mut retries, mut comm, mut kept) = (0, *comm, None);
        if let Some(entry) = self.subjects.get(key, now) {
            let is_news = entry.comm == [0; 16] && comm != [0; 16] && entry.subject.process.is_empty();
            if !is_news && entry.next.is_none_or(|next| now < next) {
                return entry.subject.clone();
            }
            retries = entry.retries.saturating_add(u8::from(!is_news));
            if entry.comm != [0; 16] {
                comm = entry.comm;
            }
            kept = (entry.subject.fixed && !is_news).then(|| entry.subject.clone());
        }
        let (mut subject, found) = self.name(key, &comm, now);
        for reused in self.cgroups.take_reused() {
            self.subjects.retain(|known, _| known.cgroup != reused);
        }
        subject.fixed = found || retries >= RETRIES;
        let next = match (found, subject.fixed) {
            (true, _) => None,
            (_, false) => Some(now + PAUSE),
            // What has been counted by then keeps the name that it was counted under.
            _ => self.names.kubernetes.is_some().then(|| now + AGAIN),
        };
        // It may have ended since, and less can be said of it now.
        let subject = kept.filter(|_| !found).unwrap_or_else(|| Arc::new(subject));
        self.source.tell(&fact(key), || &*subject);
        self.subjects.insert(
            *key,
            Entry {
                subject: subject.clone(),
                comm,
                retries,
                next,
            },
            now,
        );
        subject
    }

    /// What could not be followed or remembered so far; takes what has been made meanwhile, whoever asks for a name or not.
    pub fn lost(&mut self, now: Instant) -> [u64; 5] {
        self.cgroups.learn_births(now);
        let [queue, backlog, unwatched, forgotten] = self.cgroups.lost();
        [queue, backlog, unwatched, forgotten, self.subjects.evicted()]
    }

    /// Tells a recording all names again that are known.
    pub fn tell_all(&self) {
        for (key, entry) in self.subjects.iter() {
            self.source.tell(&fact(key), || &*entry.subject);
        }
    }

    /// The name as far as it is known now, and whether that is all.
    fn name(&mut self, key: &SubjectKey, comm: &[u8; 16], now: Instant) -> (Subject, bool) {
        let mut subject = Subject {
            process: text(comm),
            pid: key.tgid,
            netns: key.netns,
            ..Subject::default()
        };
        let process = match key.tgid {
            0 => None,
            pid => self.processes.get(pid, key.start, now),
        };
        if let Some(process) = process.as_ref().filter(|_| subject.process.is_empty()) {
            subject.process = text(&process.comm);
        }
        // 1 is the root cgroup, and all there is on hosts with cgroups of version 1.
        let by_cgroup = key.cgroup > 1;
        let path = if by_cgroup {
            self.cgroups.path(key.cgroup, now)
        } else {
            None
        };
        let parsed = path.as_ref().and_then(|path| cgroup::parse(path));
        let workload = parsed.as_ref().or_else(|| process.as_ref()?.workload.as_ref());
        let mut is_named = true;
        if let Some(workload) = workload {
            subject.take(workload, by_cgroup);
            if let Some(named) = self.names.of(workload, now) {
                is_named = named.is_final;
                if let Some(name) = named.name {
                    (subject.label, subject.further) = (name.label, name.further);
                }
            }
        }
        if subject.label.is_empty() {
            let nobody = key.tgid == 0 && !by_cgroup;
            subject.label = if nobody || subject.process.is_empty() {
                UNKNOWN.into()
            } else {
                subject.process.clone()
            };
        }
        let found = if by_cgroup {
            path.is_some()
        } else {
            key.tgid == 0 || process.is_some()
        };
        (subject, found && is_named)
    }
}

impl Subject {
    /// What series call it.
    pub fn name(&self) -> Name {
        Name {
            label: self.label.clone(),
            further: self.further.clone(),
        }
    }

    /// A container names every process in it; other workloads only what the kernel gave by cgroup.
    fn take(&mut self, workload: &Workload, by_cgroup: bool) {
        if by_cgroup || matches!(workload.kind, Kind::Container | Kind::Pod) {
            self.label = clean(workload.label());
        }
        let field = |value: &Option<String>| value.as_deref().map(clean).unwrap_or_default();
        self.container_id = field(&workload.container_id);
        self.pod_uid = field(&workload.pod_uid);
        self.unit = field(&workload.unit);
        // Compared, not shown; a label would be cut too early for the paths of pods.
        self.cgroup = workload.path.chars().take(512).collect();
    }
}

/// The fact that says who a key is.
fn fact(key: &SubjectKey) -> String {
    format!("subject {} {} {} {}", key.cgroup, key.tgid, key.start, key.netns)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
