//! The engine's maps and programs, by name.

use super::Engine;
use super::map::KernelMap;
use super::sys::MappedArray;
use crate::error::{Context as _, Error, Result};
use crate::identity::{Change, Prefix};
use crate::record::Source;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, RingBuf};
use aya::programs::Program;
use std::os::fd::BorrowedFd;

impl Engine {
    /// A program of the object.
    pub(super) fn program(&self, name: &str) -> Option<&Program> {
        self.ebpf.as_ref()?.program(name)
    }

    /// A program of the object.
    pub(super) fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.ebpf.as_mut()?.program_mut(name)
    }

    /// A map that nobody has taken.
    pub(super) fn map(&self, name: &str) -> Option<&Map> {
        self.ebpf.as_ref()?.map(name)
    }

    /// Writes the prefixes by which programs tell peers.
    pub fn write_peers(&mut self, prefixes: impl Iterator<Item = Prefix>) -> Result<()> {
        let Some(ebpf) = &mut self.ebpf else { return Ok(()) };
        let map = ebpf.map_mut("PEERS").context("the object has no map PEERS")?;
        let mut trie: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(map).context("map PEERS")?;
        for prefix in prefixes {
            trie.insert(&Key::new(prefix.prefix_len, prefix.address), prefix.peer, 0)
                .context("map PEERS")?;
        }
        Ok(())
    }

    /// Writes that an address is somebody else's.
    pub fn change_peer(&mut self, change: Change) -> Result<()> {
        let Some(ebpf) = &mut self.ebpf else { return Ok(()) };
        let map = ebpf.map_mut("PEERS").context("the object has no map PEERS")?;
        let mut trie: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(map).context("map PEERS")?;
        match change {
            Change::Put(p) => trie.insert(&Key::new(p.prefix_len, p.address), p.peer, 0),
            Change::Remove(p) => trie.remove(&Key::new(p.prefix_len, p.address)),
        }
        .context("map PEERS")
    }

    /// Takes a map out of the object.
    pub fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf
            .as_mut()
            .and_then(|ebpf| ebpf.take_map(name))
            .context(format_args!("the object has no map {name}"))
    }

    /// Takes a hash, an array or a queue.
    pub fn take_data(&mut self, name: &'static str) -> Result<KernelMap> {
        if let Source::Recorded(past) = &self.source {
            return Ok(KernelMap::recorded(name, past));
        }
        match self.take_map(name)? {
            Map::HashMap(data)
            | Map::Array(data)
            | Map::Queue(data)
            | Map::ProgramArray(data)
            | Map::ArrayOfMaps(data) => Ok(KernelMap::new(name, data, &self.source)),
            _ => Err(Error::new(format_args!("map {name} is of another kind"))),
        }
    }

    /// Takes an array and maps it.
    pub fn take_array(&mut self, name: &'static str, size: usize, entries: usize) -> Result<MappedArray> {
        if let Source::Recorded(past) = &self.source {
            return past.array(name, size, entries);
        }
        let map = self.take_map(name)?;
        let data = map_data(&map).context(format_args!("map {name} has no data"))?;
        let array = watched(MappedArray::new(data.fd(), size, entries)?, name, &self.source)?;
        // Programs that are loaded later need the map's descriptor.
        self.kept.push(map);
        Ok(array)
    }

    /// Takes the ring of records.
    pub fn take_ring(&mut self) -> Result<RingBuf<MapData>> {
        RingBuf::try_from(self.take_map("RECORDS")?).context("ring buffer")
    }
}

/// Has what is read of an array written down if a recording is made.
pub(super) fn watched(array: MappedArray, name: &'static str, source: &Source) -> Result<MappedArray> {
    match source.tape_of(name) {
        Some(tape) => array.watch(name, tape),
        None => Ok(array),
    }
}

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
