//! Cgroups as they are made: a container that lives for a tenth of a second is gone before anybody walks the tree.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Most directories that are watched; what is made in others is found by the next walk.
const MAX_WATCHES: usize = 8192;
/// And no more than this part of what the kernel gives one user.
const SHARE: usize = 4;
/// Most unwatched directories that are known to have been counted; of more each try is.
const MAX_COUNTED: usize = 65_536;
/// Births that wait to be taken. What comes while there are so many is found by the next walk.
const WAITING: usize = 8192;

/// What has been missed. What lives on is found by the next walk of the tree, what was gone by then has no name.
#[derive(Debug, Default)]
pub struct Missed {
    /// Times that the kernel's queue was full: one or more births each.
    pub queue: AtomicU64,
    /// Births that nobody had taken yet when there were too many.
    pub backlog: AtomicU64,
    /// Directories that are not watched, because there are too many, or the kernel refuses it: births in them are not told.
    pub unwatched: AtomicU64,
}

/// Follows the tree on a thread of its own.
#[derive(Debug)]
pub struct Births {
    born: Receiver<(u64, Box<[u8]>)>,
    missed: Arc<Missed>,
}

impl Births {
    /// Of the hierarchy at `root`.
    pub fn follow(root: PathBuf) -> std::io::Result<Self> {
        let (mut tree, births) = Tree::new(root)?;
        std::thread::Builder::new()
            .name("cgroups".into())
            .spawn(move || while tree.step() {})?;
        Ok(births)
    }

    /// Ids and paths, relative to the root, of what has been made since the last call.
    pub fn take(&self) -> impl Iterator<Item = (u64, Box<[u8]>)> {
        self.born.try_iter()
    }

    /// What has been missed so far.
    pub fn missed(&self) -> &Missed {
        &self.missed
    }
}

struct Tree {
    inotify: Inotify,
    root: PathBuf,
    paths: HashMap<WatchDescriptor, PathBuf>,
    watches: HashMap<PathBuf, WatchDescriptor>,
    sender: SyncSender<(u64, Box<[u8]>)>,
    missed: Arc<Missed>,
    /// Hashes of the paths that are there, are not watched, and have been counted.
    unwatched: HashSet<u64>,
    hasher: RandomState,
    /// Watches.
    most: usize,
}

impl Tree {
    /// What is there is watched and no news.
    fn new(root: PathBuf) -> std::io::Result<(Self, Births)> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let (sender, born) = sync_channel(WAITING);
        let missed: Arc<Missed> = Arc::default();
        let quota = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
        let quota = quota.trim().parse().unwrap_or(MAX_WATCHES);
        let mut tree = Self {
            most: MAX_WATCHES.min(quota / SHARE),
            inotify,
            root: root.clone(),
            paths: HashMap::new(),
            watches: HashMap::new(),
            unwatched: HashSet::new(),
            hasher: RandomState::new(),
            sender,
            missed: missed.clone(),
        };
        tree.learn(root, false);
        Ok((tree, Births { born, missed }))
    }

    /// Waits for events and follows them. False: there will be no more, or nobody cares.
    fn step(&mut self) -> bool {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EINTR) => return true,
            Err(e) => {
                tracing::error!(
                    "inotify: {e}; cgroups that live for less than a second have no names from now on"
                );
                return false;
            }
        };
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.missed.queue.fetch_add(1, Ordering::Relaxed);
                if !self.learn_anew() {
                    return false;
                }
                continue;
            }
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                if let Some(path) = self.paths.remove(&event.wd)
                    && self.watches.get(&path) == Some(&event.wd)
                {
                    self.watches.remove(&path);
                }
                continue;
            }
            let parent = self.paths.get(&event.wd).cloned();
            let (Some(parent), Some(name)) = (parent, event.name) else {
                continue;
            };
            let path = parent.join(name);
            let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
            if event.mask.intersects(gone) {
                self.forget(&path);
            } else if event.mask.contains(AddWatchFlags::IN_ISDIR) && self.learn(path, true).is_none() {
                return false;
            }
        }
        true
    }

    /// Watches a directory and all below it, and tells of those that it did not know if they are news. What is made in one
    /// before it is watched is found when it is read. Returns all of them; `None` = nobody listens.
    fn learn(&mut self, top: PathBuf, is_news: bool) -> Option<HashSet<PathBuf>> {
        let (mut todo, mut seen) = (vec![top], HashSet::new());
        while let Some(path) = todo.pop() {
            if self.watch(&path) && is_news && !self.tell(&path) {
                return None;
            }
            todo.extend(children(&path));
            seen.insert(path);
        }
        Some(seen)
    }

    /// Events have been lost: whatever is there is looked at again, and what is not is forgotten. False: nobody listens.
    fn learn_anew(&mut self) -> bool {
        let Some(seen) = self.learn(self.root.clone(), true) else {
            return false;
        };
        let gone: Vec<PathBuf> = self
            .watches
            .keys()
            .filter(|path| !seen.contains(*path))
            .cloned()
            .collect();
        gone.iter().for_each(|path| self.forget(path));
        let seen: HashSet<u64> = seen.iter().map(|path| self.hasher.hash_one(path)).collect();
        self.unwatched.retain(|path| seen.contains(path));
        true
    }

    fn tell(&self, path: &Path) -> bool {
        let (Ok(metadata), Ok(relative)) = (std::fs::symlink_metadata(path), path.strip_prefix(&self.root))
        else {
            return true;
        };
        let relative = [b"/", relative.as_os_str().as_bytes()].concat();
        match self.sender.try_send((metadata.ino(), relative.into())) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed.backlog.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// Returns whether it was not watched so far.
    fn watch(&mut self, path: &Path) -> bool {
        let wanted = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        let before = self.watches.get(path).copied();
        let is_full = before.is_none() && self.paths.len() >= self.most;
        let watch = if is_full {
            Err(Errno::ENOSPC)
        } else {
            self.inotify.add_watch(path, wanted | AddWatchFlags::IN_ONLYDIR)
        };
        match watch {
            Ok(watch) if before == Some(watch) => return false,
            Ok(watch) => {
                // Another directory of this name.
                if let Some(before) = before {
                    self.paths.remove(&before);
                }
                self.paths.insert(watch, path.to_owned());
                self.watches.insert(path.to_owned(), watch);
                self.unwatched.remove(&self.hasher.hash_one(path));
            }
            // It is gone again.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(_) => {
                let path = self.hasher.hash_one(path);
                let is_known = self.unwatched.contains(&path);
                if !is_known && self.unwatched.len() < MAX_COUNTED {
                    self.unwatched.insert(path);
                }
                self.missed
                    .unwatched
                    .fetch_add(u64::from(!is_known), Ordering::Relaxed);
            }
        }
        true
    }

    /// The kernel keeps the inode of a cgroup for as long as it is watched.
    fn forget(&mut self, path: &Path) {
        self.unwatched.remove(&self.hasher.hash_one(path));
        if let Some(watch) = self.watches.remove(path) {
            self.paths.remove(&watch);
            let _ = self.inotify.rm_watch(watch);
        }
    }
}

fn children(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_made_is_told_also_if_it_is_gone_by_then() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kubepods/pod1")).unwrap();
        let births = Births::follow(root.path().to_owned()).unwrap();
        let mut made = BTreeSet::new();
        for path in [
            "kubepods/pod1/a",
            "kubepods/pod2",
            "kubepods/pod2/b",
            "kubepods/pod2/b/c",
            "d/e/f",
        ] {
            let at = root.path().join(path);
            fs::create_dir_all(&at).unwrap();
            made.insert((fs::metadata(&at).unwrap().ino(), format!("/{path}").into_bytes()));
        }
        fs::write(root.path().join("kubepods/file"), "").unwrap();
        let mut told = BTreeSet::new();
        let start = Instant::now();
        while !told.is_superset(&made) && start.elapsed() < Duration::from_secs(20) {
            told.extend(births.take().map(|(id, path)| (id, path.into_vec())));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(told.is_superset(&made), "{told:?} for {made:?}");
        assert!(!told.iter().any(|(_, path)| path.ends_with(b"file")));
        // A directory of the same name is another one.
        fs::remove_dir_all(root.path().join("d")).unwrap();
        let again = root.path().join("d/e");
        fs::create_dir_all(&again).unwrap();
        let id = fs::metadata(&again).unwrap().ino();
        let start = Instant::now();
        let is_told = || births.take().any(|(told, path)| told == id && *path == *b"/d/e");
        while !is_told() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_the_queue_had_no_room_for_is_counted_and_looked_for() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("old")).unwrap();
        let (mut tree, births) = Tree::new(root.path().to_owned()).unwrap();
        let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        for _ in 0..queue.trim().parse::<usize>().unwrap() / 2 + 8 {
            fs::create_dir(root.path().join("brief")).unwrap();
            fs::remove_dir(root.path().join("brief")).unwrap();
        }
        fs::remove_dir(root.path().join("old")).unwrap();
        fs::create_dir_all(root.path().join("kept/below")).unwrap();
        while births.missed().queue.load(Ordering::Relaxed) == 0 {
            assert!(tree.step());
        }
        let told: Vec<_> = births.take().map(|(_, path)| path.into_vec()).collect();
        assert!(
            told.contains(&b"/kept".to_vec()) && told.contains(&b"/kept/below".to_vec()),
            "{told:?}"
        );
        assert_eq!(tree.watches.len(), 3, "{:?}", tree.watches);
        // They are watched, too, and nothing is told twice.
        fs::create_dir(root.path().join("kept/below/new")).unwrap();
        let mut told = Vec::new();
        while told.is_empty() {
            assert!(tree.step());
            told.extend(births.take().map(|(_, path)| path.into_vec()));
        }
        assert_eq!(told, [b"/kept/below/new".to_vec()]);
        assert_eq!(tree.paths.len(), tree.watches.len());
        assert_eq!(births.missed().queue.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let (mut tree, births) = Tree::new(root.path().to_owned()).unwrap();
        tree.most = 2;
        for i in 0..WAITING + 5 {
            fs::create_dir(root.path().join(i.to_string())).unwrap();
        }
        let missed = births.missed();
        while missed.backlog.load(Ordering::Relaxed) < 5 {
            assert!(tree.step());
        }
        assert_eq!(births.take().count(), WAITING);
        assert_eq!(missed.unwatched.load(Ordering::Relaxed), WAITING as u64 + 5 - 1);
        assert_eq!(missed.backlog.load(Ordering::Relaxed), 5);
        // Trying again is no other loss; another directory of the name is.
        assert!(tree.learn_anew());
        assert_eq!(missed.unwatched.load(Ordering::Relaxed), WAITING as u64 + 5 - 1);
        let one = root.path().join("7");
        assert!(!tree.watches.contains_key(&one));
        fs::remove_dir(&one).unwrap();
        fs::create_dir(&one).unwrap();
        assert!(tree.step());
        assert_eq!(missed.unwatched.load(Ordering::Relaxed), WAITING as u64 + 5);
        assert_eq!(tree.unwatched.len(), WAITING + 5 - 1);
    }
}
