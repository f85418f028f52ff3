//! From a cgroup id to its path: the id is the inode number of the directory in the cgroup2 file system.

use super::births::{Births, Missed};
use super::cache::Cache;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cgroups that are remembered, live and removed ones together.
pub const CAPACITY: usize = 65_536;
/// How long a removed cgroup is remembered after its last use.
pub const KEEP: Duration = Duration::from_secs(600);
/// Shortest time between two walks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A walk of the tree may take this part of the time.
const SHARE: u32 = 50;
/// Longest wait for a walk, however slow they are.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why there is no cgroup2 hierarchy to read.
#[derive(Debug)]
pub enum CgroupError {
    /// The list of mounts cannot be read.
    Mountinfo(PathBuf, std::io::Error),
    /// Nothing of type cgroup2 is mounted.
    NotMounted(PathBuf),
}

impl fmt::Display for CgroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mountinfo(path, cause) => {
                write!(f, "cannot read {}: {cause}; is /proc mounted?", path.display())
            }
            Self::NotMounted(path) => {
                write!(
                    f,
                    "no cgroup2 in {}; remedy: mount -t cgroup2 none /sys/fs/cgroup/unified",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for CgroupError {}

/// Where the cgroup2 hierarchy is mounted in this mount namespace.
pub fn find_cgroup2_root() -> Result<PathBuf, CgroupError> {
    find_in(Path::new("/proc/self/mountinfo"))
}

/// As [`find_cgroup2_root`], from another file of the same format.
pub fn find_in(mountinfo: &Path) -> Result<PathBuf, CgroupError> {
    let content = std::fs::read(mountinfo).map_err(|e| CgroupError::Mountinfo(mountinfo.to_owned(), e))?;
    mount_point(&content).ok_or_else(|| CgroupError::NotMounted(mountinfo.to_owned()))
}

/// The mount that shows the whole hierarchy, else the first that shows a part of it.
fn mount_point(mountinfo: &[u8]) -> Option<PathBuf> {
    crate::mountinfo::parse(mountinfo, "cgroup2").into_iter().next()
}

/// Index of the hierarchy, filled by a walk when an unknown id is asked for.
#[derive(Debug)]
pub struct Cgroups {
    root: Option<PathBuf>,
    paths: Cache<u64, Arc<[u8]>>,
    next_walk: Option<Instant>,
    walks: u64,
    reused: Vec<u64>,
    births: Option<Births>,
}

impl Cgroups {
    /// An index of the hierarchy at `root`; without a root it knows nothing. Reads nothing yet.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self {
            root,
            paths: Cache::new(CAPACITY),
            next_walk: None,
            walks: 0,
            reused: Vec::new(),
            births: None,
        }
    }

    /// Learns from now on of each cgroup when it is made, so that it is known even if it lives for a moment.
    pub fn follow(&mut self) {
        let Some(root) = self.root.clone() else { return };
        match Births::follow(root) {
            Ok(births) => self.births = Some(births),
            Err(e) => tracing::warn!("cgroups that live for less than a second have no names: inotify: {e}"),
        }
    }

    /// Path relative to the root (`/` = the root itself), as long as the cgroup was there at a walk and is remembered.
    pub fn path(&mut self, id: u64, now: Instant) -> Option<Arc<[u8]>> {
        if let Some(path) = self.paths.get(&id, now) {
            return Some(path.clone());
        }
        self.learn_births(now);
        if let Some(path) = self.paths.get(&id, now) {
            return Some(path.clone());
        }
        if self.next_walk.is_some_and(|next| now < next) {
            return None;
        }
        let clock = Instant::now();
        self.walk(now);
        let pause = (clock.elapsed() * SHARE).clamp(INTERVAL, LONGEST_WAIT);
        self.next_walk = Some(now + pause);
        self.paths.get(&id, now).map(|path| path.clone())
    }

    /// Takes what has been made meanwhile, so that there is room for what will be.
    pub fn learn_births(&mut self, now: Instant) {
        let born: Vec<_> = self.births.iter().flat_map(Births::take).collect();
        for (id, path) in born {
            self.learn(id, &path, now);
        }
    }

    /// What could not be followed so far: queues that were full, births that nobody had taken, directories that are not watched,
    /// cgroups that were forgotten.
    pub fn lost(&self) -> [u64; 4] {
        let of = |what: fn(&Missed) -> &AtomicU64| {
            let births = self.births.as_ref();
            births.map_or(0, |births| what(births.missed()).load(Ordering::Relaxed))
        };
        [
            of(|missed| &missed.queue),
            of(|missed| &missed.backlog),
            of(|missed| &missed.unwatched),
            self.paths.evicted(),
        ]
    }

    /// Ids that turned out to belong to another cgroup than before, since the last call.
    pub fn take_reused(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.reused)
    }

    /// Number of walks so far.
    pub fn walks(&self) -> u64 {
        self.walks
    }

    /// Reads the whole tree, with a list instead of recursion. What vanishes meanwhile is left out.
    fn walk(&mut self, now: Instant) {
        self.walks += 1;
        let Some(root) = self.root.clone() else { return };
        if let Ok(metadata) = std::fs::metadata(&root) {
            self.learn(metadata.ino(), b"/", now);
        }
        let mut seen = 0;
        let mut todo = vec![root.clone()];
        while let Some(directory) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            {
                let path = entry.path();
                if let Ok(relative) = path.strip_prefix(&root) {
                    let relative = [b"/", relative.as_os_str().as_bytes()].concat();
                    self.learn(entry.ino(), &relative, now);
                }
                seen += 1;
                if seen >= CAPACITY {
                    return;
                }
                todo.push(path);
            }
        }
        self.paths.expire(now, KEEP);
    }

    fn learn(&mut self, id: u64, path: &[u8], now: Instant) {
        if self.paths.get(&id, now).is_some_and(|known| known[..] == *path) {
            return;
        }
        if self.paths.insert(id, path.into(), now).is_some() {
            self.reused.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn id(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn the_hierarchy_is_found_wherever_it_is() {
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw shared:3 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let odd = b"1 1 0:1 /part /mnt/part rw - cgroup2 none rw\n2 1 0:1 / /mnt/a\\040b\\134\\011\\012 rw - cgroup2 none rw\n";
        assert_eq!(mount_point(odd).unwrap(), Path::new("/mnt/a b\\\t\n"));
        let part = b"1 1 0:1 /../.. /mnt/part rw - cgroup2 none rw";
        assert_eq!(mount_point(part).unwrap(), Path::new("/mnt/part"));
        for none in [
            &b""[..],
            b"\n\n",
            b"garbage",
            b"1 1 0:1 / /x rw -",
            b"1 1 0:1 / /cgroup2 rw - tmpfs cgroup2 rw",
        ] {
            assert_eq!(mount_point(none), None);
        }
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(
            find_in(empty.path())
                .unwrap_err()
                .to_string()
                .starts_with("no cgroup2 in /")
        );
        assert!(
            find_in(Path::new("/nowhere"))
                .unwrap_err()
                .to_string()
                .starts_with("cannot read /nowhere: No such")
        );
    }

    #[test]
    fn unknown_ids_cost_one_walk_a_second_and_removed_cgroups_stay_known() {
        let tree = tempfile::tempdir().unwrap();
        let service = tree.path().join("system.slice/a.service");
        fs::create_dir_all(&service).unwrap();
        fs::write(tree.path().join("cgroup.procs"), "").unwrap();
        std::os::unix::fs::symlink(tree.path(), tree.path().join("loop")).unwrap();
        let (root_id, service_id) = (id(tree.path()), id(&service));
        let mut cgroups = Cgroups::new(Some(tree.path().to_owned()));
        let start = Instant::now();
        assert_eq!(cgroups.walks(), 0);
        assert_eq!(
            &*cgroups.path(service_id, start).unwrap(),
            b"/system.slice/a.service"
        );
        assert_eq!(&*cgroups.path(root_id, start).unwrap(), b"/");
        for unknown in 0..10_000 {
            assert_eq!(
                cgroups.path(u64::MAX - unknown, start + Duration::from_millis(unknown / 20)),
                None
            );
        }
        assert_eq!(cgroups.walks(), 1);

        fs::remove_dir(&service).unwrap();
        let late = tree.path().join("b");
        fs::create_dir(&late).unwrap();
        let (late_id, later) = (id(&late), start + LONGEST_WAIT);
        if late_id != service_id {
            assert_eq!(cgroups.path(late_id, start), None, "before the next walk is due");
            assert_eq!(&*cgroups.path(late_id, later).unwrap(), b"/b");
            assert_eq!(
                &*cgroups.path(service_id, later).unwrap(),
                b"/system.slice/a.service"
            );
            assert!(cgroups.take_reused().is_empty());
            cgroups.path(1 << 60, later + Duration::from_secs(300));
            assert!(
                cgroups
                    .path(service_id, later + Duration::from_secs(300))
                    .is_some(),
                "kept for five minutes"
            );
        }
    }

    #[test]
    fn a_reused_id_takes_its_new_path_and_is_told() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("old")).unwrap();
        let reused = id(&tree.path().join("old"));
        let mut cgroups = Cgroups::new(Some(tree.path().to_owned()));
        let start = Instant::now();
        assert_eq!(&*cgroups.path(reused, start).unwrap(), b"/old");
        // The same inode under another name is what reuse looks like.
        fs::rename(tree.path().join("old"), tree.path().join("new")).unwrap();
        cgroups.path(1 << 60, start + LONGEST_WAIT);
        assert_eq!(cgroups.take_reused(), [reused]);
        assert_eq!(&*cgroups.path(reused, start + LONGEST_WAIT).unwrap(), b"/new");
    }

    #[test]
    fn depth_and_absence_are_harmless() {
        let tree = tempfile::tempdir().unwrap();
        let deep = tree.path().join("a/".repeat(1000));
        fs::create_dir_all(&deep).unwrap();
        let mut cgroups = Cgroups::new(Some(tree.path().to_owned()));
        assert_eq!(cgroups.path(id(&deep), Instant::now()).unwrap().len(), 2000);
        assert_eq!(Cgroups::new(None).path(7, Instant::now()), None);
        assert_eq!(
            Cgroups::new(Some("/nowhere".into())).path(7, Instant::now()),
            None
        );
    }
}
