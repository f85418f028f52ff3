//! Maps as aya has them.

use aya::maps::{Map, MapData};
use std::os::fd::BorrowedFd;

/// Size of a map in kernel memory, as the kernel states it.
pub(super) fn memlock(fd: BorrowedFd<'_>) -> Option<u64> {
    use std::os::fd::AsRawFd as _;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines()
        .find_map(|l| l.strip_prefix("memlock:"))?
        .trim()
        .parse()
        .ok()
}

/// The data of any kind of map.
pub fn map_data(map: &Map) -> Option<&MapData> {
    Some(match map {
        Map::Array(m)
        | Map::HashMap(m)
        | Map::LpmTrie(m)
        | Map::Queue(m)
        | Map::RingBuf(m)
        | Map::SkStorage(m)
        | Map::PerCpuArray(m)
        | Map::ProgramArray(m)
        | Map::ArrayOfMaps(m)
        | Map::Unsupported(m) => m,
        _ => return None,
    })
}
