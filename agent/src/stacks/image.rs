//! The files and mappings of a process, as they are named and read.

use super::debug_files;
use super::maps::{self, Mapping, Origin};
use super::perf_map::PerfMap;
use super::table::{self, Segment, Table};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A file whose code is sampled.
#[derive(Debug)]
pub struct Binary {
    /// A number that no other one gets.
    pub id: u32,
    /// As the process calls it.
    pub path: PathBuf,
    /// See [`Open`].
    pub file: Open,
    /// Build id, lower-case hexadecimal; may be empty.
    pub build_id: String,
    /// What it is known by besides.
    pub identity: super::build_id::Identity,
    /// Its table without the rows.
    pub table: Table,
    /// Why it has no rows; empty = it has.
    pub fault: String,
    /// It is no file, but the code that a process has made at run time; its names may be there. `file` is the process's root.
    pub perf_map: Option<PerfMap>,
}

/// A file that is open as long as it may be asked for names: its path may be gone, or another container's. But it is somebody
/// else's, who may want to unmount what it lies on, and descriptors are few.
#[derive(Debug, Default)]
pub struct Open {
    file: Mutex<Option<Arc<File>>>,
    /// A process that has it; 0 = none is known.
    tgid: AtomicU32,
}

impl Open {
    /// With a file, if there is one.
    pub fn new(file: Option<File>) -> Self {
        Self {
            file: Mutex::new(file.map(Arc::new)),
            ..Self::default()
        }
    }

    /// With a file of a process, if there is one.
    pub(super) fn of(tgid: u32, file: Option<File>) -> Self {
        let open = Self::new(file);
        open.is_of(tgid);
        open
    }

    /// This process has it too: the last one lives longest, mostly.
    pub(super) fn is_of(&self, tgid: u32) {
        self.tgid.store(tgid, Ordering::Relaxed);
    }

    /// The root directory of a process that has it, if one is left: to be closed soon, as it keeps a mount from being undone.
    pub(super) fn root_of_its(&self) -> Option<File> {
        match self.tgid.load(Ordering::Relaxed) {
            0 => None,
            tgid => Self::root(tgid),
        }
    }

    /// The root directory of a process. It is only a place to look from: nothing of its file system is asked.
    pub(super) fn root(tgid: u32) -> Option<File> {
        use nix::fcntl::OFlag;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = format!("/proc/{tgid}/root");
        let opened = nix::fcntl::open(root.as_str(), flags, nix::sys::stat::Mode::empty());
        opened.ok().map(File::from)
    }

    /// The file, unless it has been closed.
    pub fn get(&self) -> Option<Arc<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens it anew, or closes it.
    pub(super) fn set(&self, file: Option<File>) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.map(Arc::new);
    }
}

impl Binary {
    /// The executable part that an address lies in; all of the file, if it is in none.
    pub fn segment(&self, address: u64) -> Segment {
        let segments = &self.table.segments;
        let found = segments
            .iter()
            .find(|s| s.address <= address && address - s.address < s.size);
        found.copied().unwrap_or_else(|| Segment {
            offset: 0,
            size: u64::MAX - self.table.base,
            address: self.table.base,
        })
    }
}

/// Where the addresses of the kernel begin.
pub const KERNEL_START: u64 = 0xffff_8000_0000_0000;

/// Where a mapping of a process comes from.
#[derive(Clone, Debug)]
pub struct Located {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// The file, or the code that the process has made at run time (jit.rs); `None` = the kernel's `[vsyscall]`.
    pub binary: Option<Arc<Binary>>,
}

/// The executable mappings of a process, ordered by address.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its id.
    pub tgid: u32,
    /// Start time of its leader, ns since boot.
    pub start: u64,
    /// Its mappings.
    pub mappings: Vec<Located>,
    /// Its Python, if its frames can be read.
    pub python: Option<Arc<super::python::Python>>,
}

impl Image {
    /// The mapping of an address.
    pub fn find(&self, address: u64) -> Option<&Located> {
        let at = self.mappings.partition_point(|m| m.end <= address);
        self.mappings.get(at).filter(|m| m.start <= address)
    }
}

/// The file of a mapping as the process has it, whatever its path leads to by now.
pub(super) fn open(tgid: u32, mapping: &Mapping, path: &std::path::Path) -> std::io::Result<File> {
    let by_address = format!("/proc/{tgid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    if let Some(file) = debug_files::open(by_address.as_ref()) {
        return Ok(file);
    }
    // By its path, as the process sees it: a link there must not lead out of it.
    let root = Open::root(tgid).ok_or_else(std::io::Error::last_os_error)?;
    debug_files::open_in(&root, path).ok_or_else(|| std::io::Error::other("no file that can be opened"))
}

/// The vdso is the kernel's, and ours is that of every process.
pub(super) fn vdso(like: &Mapping) -> Result<Table, table::Fault> {
    let io = |e: std::io::Error| table::Fault::Io(e.to_string());
    let own = maps::parse(&std::fs::read("/proc/self/maps").map_err(io)?);
    let Some(own) = own.iter().find(|m| m.origin == Origin::Vdso) else {
        return Err(table::Fault::Io("this process has none".into()));
    };
    let size = (own.end - own.start).min(like.end - like.start) as usize;
    let mut image = vec![0; size];
    let memory = File::open("/proc/self/mem").map_err(io)?;
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut image, own.start).map_err(io)?;
    table::read_image(&image)
}
