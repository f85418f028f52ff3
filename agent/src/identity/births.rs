//! Cgroups as they are made: a container that lives for a tenth of a second is gone before anybody walks the tree.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Most directories that are watched; what is made in others is found by the next walk.
const MAX_WATCHES: usize = 8192;
/// And no more than this part of what the kernel gives one user.
const SHARE: usize = 4;
/// Births that wait to be taken. What comes while there are so many is found by the next walk.
const WAITING: usize = 8192;

/// Follows the tree on a thread of its own.
#[derive(Debug)]
pub struct Births(Receiver<(u64, Box<[u8]>)>);

impl Births {
    /// Of the hierarchy at `root`.
    pub fn follow(root: PathBuf) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let (sender, receiver) = sync_channel(WAITING);
        let quota = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
        let quota = quota.trim().parse().unwrap_or(MAX_WATCHES);
        let mut tree = Tree {
            most: MAX_WATCHES.min(quota / SHARE),
            inotify,
            root: root.clone(),
            paths: HashMap::new(),
            watches: HashMap::new(),
            sender,
        };
        tree.learn(root, false);
        std::thread::Builder::new()
            .name("cgroups".into())
            .spawn(move || while tree.step() {})?;
        Ok(Self(receiver))
    }

    /// Ids and paths, relative to the root, of what has been made since the last call.
    pub fn take(&self) -> impl Iterator<Item = (u64, Box<[u8]>)> {
        self.0.try_iter()
    }
}

struct Tree {
    inotify: Inotify,
    root: PathBuf,
    paths: HashMap<WatchDescriptor, PathBuf>,
    watches: HashMap<PathBuf, WatchDescriptor>,
    sender: SyncSender<(u64, Box<[u8]>)>,
    /// Watches.
    most: usize,
}

impl Tree {
    /// Waits for events and follows them. False: there will be no more, or nobody cares.
    fn step(&mut self) -> bool {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EINTR) => return true,
            Err(_) => return false,
        };
        for event in events {
            let parent = self.paths.get(&event.wd).cloned();
            let (Some(parent), Some(name)) = (parent, event.name) else {
                continue;
            };
            let path = parent.join(name);
            let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
            if event.mask.intersects(gone) {
                self.forget(&path);
            } else if event.mask.contains(AddWatchFlags::IN_ISDIR) && !self.learn(path, true) {
                return false;
            }
        }
        true
    }

    /// Watches a directory and all below it, and tells of them if they are news. What is made in one before it is
    /// watched is found when it is read. False: nobody listens.
    fn learn(&mut self, top: PathBuf, is_news: bool) -> bool {
        let mut todo = vec![top];
        while let Some(path) = todo.pop() {
            self.watch(&path);
            if is_news && !self.tell(&path) {
                return false;
            }
            todo.extend(children(&path));
        }
        true
    }

    fn tell(&self, path: &Path) -> bool {
        let (Ok(metadata), Ok(relative)) = (std::fs::symlink_metadata(path), path.strip_prefix(&self.root))
        else {
            return true;
        };
        let relative = [b"/", relative.as_os_str().as_bytes()].concat();
        let told = self.sender.try_send((metadata.ino(), relative.into()));
        !matches!(told, Err(TrySendError::Disconnected(_)))
    }

    fn watch(&mut self, path: &Path) {
        if self.paths.len() >= self.most {
            return;
        }
        let wanted = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        if let Ok(watch) = self.inotify.add_watch(path, wanted | AddWatchFlags::IN_ONLYDIR) {
            self.paths.insert(watch, path.to_owned());
            self.watches.insert(path.to_owned(), watch);
        }
    }

    /// The kernel keeps the inode of a cgroup for as long as it is watched.
    fn forget(&mut self, path: &Path) {
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
}
