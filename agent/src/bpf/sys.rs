//! The few bpf(2) calls that aya does not have.

pub use super::mapped::{MappedArray, Memory, Shadow};

use crate::error::{Context as _, Result};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const MAP_CREATE: i32 = 0;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const MAP_LOOKUP_AND_DELETE: i32 = 21;
const PROG_LOAD: i32 = 5;
const PROG_GET_NEXT_ID: i32 = 11;
const MAP_LOOKUP_BATCH: i32 = 24;
const OBJ_GET_INFO: i32 = 15;
const PROG_QUERY: i32 = 16;
const LINK_CREATE: i32 = 28;
const ITER_CREATE: i32 = 33;
const TRACE_ITER: u32 = 28;

fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: every caller passes the union member that belongs to the command, of its exact size, and keeps what it
    // points to alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Gives memory back to the system that is not needed again: freed, 20 MB of the kernel's types that attaching parses, and pages of
/// the program itself, of which a running agent touches a quarter.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for (address, length) in code(&maps, &own.to_string_lossy()) {
        // SAFETY: pages of a private mapping of a file that nobody may write through: what is touched again is read again
        // from the same file. What is relocated lies in other mappings.
        unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(address),
                length,
                libc::MADV_DONTNEED,
            );
        }
    }
}

/// Address and length of the mappings of a program that nobody has written to: its code, and what is before it in the file.
fn code(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let pure = maps.lines().filter_map(|line| {
        let line = line.strip_suffix(program)?;
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (rights, offset) = (words.next()?, words.next()?);
        let number = |text| usize::from_str_radix(text, 16).ok();
        let is_pure = rights == "r-xp" || rights == "r--p" && number(offset)? == 0;
        let from = number(from)?;
        is_pure.then_some((from, number(to)?.checked_sub(from)?))
    });
    pure.collect()
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Whether values are read under their spin lock.
#[derive(Clone, Copy)]
pub enum Locking {
    /// They have none.
    None,
    /// None is read while a program writes it.
    Each,
}

/// Calls `each(key, value)` for every entry of a hash map: one call for thousands of entries, where aya's iterator
/// makes two for each (research/tech.md §6: 0.6 against 4.2 µs an entry).
pub fn for_each(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    locking: Locking,
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<()> {
    const F_LOCK: u64 = 4;
    let elem_flags = match locking {
        Locking::None => 0,
        Locking::Each => F_LOCK,
    };
    const CHUNK: usize = 1024;
    let mut keys = vec![0u8; key_size * CHUNK];
    let mut values = vec![0u8; value_size * CHUNK];
    // The cursor is opaque: 4 bytes for hashes on every kernel, the key's size by the documentation.
    let mut cursor = vec![0u8; key_size.max(8)];
    let mut next = vec![0u8; key_size.max(8)];
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags,
            ..Default::default()
        };
        let result = bpf(MAP_LOOKUP_BATCH, &mut attr);
        let end = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e).context("reading a map in batches"),
        };
        let n = (attr.count as usize).min(CHUNK);
        for (key, value) in keys
            .chunks_exact(key_size)
            .zip(values.chunks_exact(value_size))
            .take(n)
        {
            each(key, value);
        }
        if end {
            return Ok(());
        }
        std::mem::swap(&mut cursor, &mut next);
        first = false;
    }
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Makes an array that can be mapped.
pub fn create_mmapable_array(value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    const MMAPABLE: u32 = 1 << 10;
    let mut attr = CreateAttr {
        map_type: ARRAY,
        key_size: 4,
        value_size,
        max_entries,
        map_flags: MMAPABLE,
    };
    let fd = bpf(MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a map into an array of maps.
pub fn set_inner(outer: BorrowedFd<'_>, index: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    update(outer, &index.to_ne_bytes(), &inner.as_raw_fd().to_ne_bytes())
}

/// Writes an entry. Key and value must have the map's sizes; a queue has no key.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: if key.is_empty() { 0 } else { key.as_ptr() as u64 },
        value: value.as_ptr() as u64,
        ..Default::default()
    };
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

/// Removes an entry. The key must have the map's size.
pub fn remove(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        ..Default::default()
    };
    bpf(MAP_DELETE, &mut attr).map(drop)
}

/// Takes an entry out of a hash and returns what it held last (since 5.14): between a look at it and its removal a
/// program could still have counted.
pub fn take(map: BorrowedFd<'_>, key: &[u8], value_size: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; value_size];
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..Default::default()
    };
    bpf(MAP_LOOKUP_AND_DELETE, &mut attr).map(|_| value)
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// `bpf_prog_info.recursion_misses` (include/uapi/linux/bpf.h; since 5.12): events that the kernel kept from a program
/// because it was already running on that CPU. `None` on kernels that do not tell.
pub fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    const OFFSET: usize = 208;
    let mut info = [0u8; OFFSET + 8];
    let mut attr = InfoAttr {
        fd: program.as_raw_fd() as u32,
        len: info.len() as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO, &mut attr).ok()?;
    if (attr.len as usize) < info.len() {
        return None;
    }
    Some(u64::from_ne_bytes(info.get(OFFSET..)?.try_into().ok()?))
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the programs on a device's tcx hook, in the order in which they run. aya's query also opens each program,
/// which needs more capabilities than attaching.
pub fn query_tcx(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        ifindex,
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Default::default()
    };
    match bpf(PROG_QUERY, &mut attr) {
        // Nothing was ever attached.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        result => result?,
    };
    Ok(ids.iter().copied().take(attr.count as usize).collect())
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    kern_version: u32,
    prog_flags: u32,
}

/// An instruction: code, registers (source, destination), offset, immediate (include/uapi/linux/bpf.h).
#[repr(C)]
struct Insn(u8, u8, i16, i32);

/// Loads a program of a few instructions.
fn load(prog_type: u32, code: &[Insn]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Default::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether programs may read kernel memory by `bpf_probe_read_kernel`: asked of the kernel by loading one that does,
/// because lockdown, which may forbid it, shows its mode only where securityfs is mounted.
pub fn may_read_kernel() -> io::Result<()> {
    const RAW_TRACEPOINT: u32 = 17;
    let code = [
        Insn(0xbf, 0xa1, 0, 0),   // r1 = r10
        Insn(0x07, 0x01, 0, -8),  // r1 += -8
        Insn(0xb7, 0x02, 0, 8),   // r2 = 8
        Insn(0xb7, 0x03, 0, 0),   // r3 = 0
        Insn(0x85, 0x00, 0, 113), // call bpf_probe_read_kernel
        Insn(0xb7, 0x00, 0, 0),   // r0 = 0
        Insn(0x95, 0x00, 0, 0),   // exit
    ];
    // Dropping it unloads the program.
    load(RAW_TRACEPOINT, &code).map(drop)
}

/// Loads a program for devices of another network namespace: writes `number` to the first word of the only element of
/// `scratch`, a per-CPU array, and jumps to program `jump` of `jumps`. Whatever fails, the packet goes on.
pub fn load_entry(
    scratch: BorrowedFd<'_>,
    jumps: BorrowedFd<'_>,
    jump: u32,
    number: u16,
) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    const MAP_FD: u8 = 0x10;
    let code = [
        Insn(0xbf, 0x16, 0, 0),                            // r6 = r1, the context
        Insn(0x62, 0x0a, -4, 0),                           // key = 0
        Insn(0x18, MAP_FD | 0x01, 0, scratch.as_raw_fd()), // r1 = scratch
        Insn(0, 0, 0, 0),                                  // second half
        Insn(0xbf, 0xa2, 0, 0),                            // r2 = r10
        Insn(0x07, 0x02, 0, -4),                           // r2 += -4
        Insn(0x85, 0x00, 0, 1),                            // call bpf_map_lookup_elem
        Insn(0x15, 0x00, 6, 0),                            // if r0 == 0, go on
        Insn(0x62, 0x00, 0, i32::from(number)),            // *(u32 *)r0 = number
        Insn(0xbf, 0x61, 0, 0),                            // r1 = r6
        Insn(0x18, MAP_FD | 0x02, 0, jumps.as_raw_fd()),   // r2 = jumps
        Insn(0, 0, 0, 0),                                  // second half
        Insn(0xb7, 0x03, 0, jump as i32),                  // r3 = jump
        Insn(0x85, 0x00, 0, 12),                           // call bpf_tail_call
        Insn(0xb7, 0x00, 0, -1),                           // r0 = TCX_NEXT, TC_ACT_UNSPEC
        Insn(0x95, 0x00, 0, 0),                            // exit
    ];
    load(SCHED_CLS, &code)
}

/// The first program of the machine with an id above this one; ids grow. Needs CAP_SYS_ADMIN.
pub fn newer_program(id: u32) -> io::Result<Option<u32>> {
    #[repr(C)]
    struct Attr {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut attr = Attr {
        start: id,
        next: 0,
        flags: 0,
    };
    match bpf(PROG_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr.next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kernel's id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // `bpf_prog_info`: type, id.
    let mut info = [0u32; 2];
    let mut attr = InfoAttr {
        fd: program.as_raw_fd() as u32,
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO, &mut attr)?;
    Ok(info[1])
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct IterCreateAttr {
    link_fd: u32,
    flags: u32,
}

/// An attached iterator program that can be run any number of times.
pub struct Iterator {
    link: OwnedFd,
}

impl Iterator {
    /// Attaches an iterator over a map's elements; aya cannot name the map.
    pub fn over_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<Self> {
        let info = map.as_raw_fd() as u32;
        Self::create(program, std::ptr::from_ref(&info) as u64, size_of::<u32>() as u32)
    }

    /// Attaches an iterator that needs no parameter.
    pub fn over_all(program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create(program, 0, 0)
    }

    fn create(program: BorrowedFd<'_>, iter_info: u64, iter_info_len: u32) -> io::Result<Self> {
        let mut attr = LinkCreateAttr {
            prog_fd: program.as_raw_fd() as u32,
            attach_type: TRACE_ITER,
            iter_info,
            iter_info_len,
            ..Default::default()
        };
        let fd = bpf(LINK_CREATE, &mut attr)?;
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { link })
    }

    /// Runs the program over everything once. What it writes is read and thrown away.
    pub fn run(&self) -> io::Result<()> {
        let mut attr = IterCreateAttr {
            link_fd: self.link.as_raw_fd() as u32,
            flags: 0,
        };
        let fd = bpf(ITER_CREATE, &mut attr)?;
        // SAFETY: as above.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut buffer = [0u8; 4096];
        loop {
            match io::Read::read(&mut file, &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn only_what_nobody_has_written_to_is_given_back() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 7   /usr/bin/geophone
3000-7000 r-xp 00002000 fe:00 7   /usr/bin/geophone
7000-8000 r--p 00006000 fe:00 7   /usr/bin/geophone
8000-9000 rw-p 00007000 fe:00 7   /usr/bin/geophone
9000-a000 r-xp 00000000 fe:00 8   /lib/libc.so.6
";
        let found = code(maps, "/usr/bin/geophone");
        assert_eq!(
            found,
            [(0x1000, 0x2000), (0x3000, 0x4000)],
            "relocations are written"
        );
    }
}
