//! The code that a process makes at run time, as a file of its own: so it has names by process, as files have theirs.

use super::image::{Binary, Image, KERNEL_START, Open};
use super::perf_map::PerfMap;
use super::table::{Segment, Table};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Root directories that are open at once, so that names can be looked for.
const ROOTS: usize = 512;
/// That of a process that is gone stays open for this time: names are asked for every ten seconds.
const IDLE: Duration = Duration::from_secs(30);

/// The code of each process that makes some.
#[derive(Default)]
pub struct Jits {
    /// By process: its start and its code.
    known: HashMap<u32, (u64, Arc<Binary>)>,
    closing: VecDeque<(Instant, Arc<Binary>)>,
    made: u32,
}

impl Jits {
    /// Gives the mappings of a process that are of no file to its code.
    pub fn place(&mut self, image: &mut Image, now: Instant) {
        let (tgid, start) = (image.tgid, image.start);
        // What is above is the kernel's: `[vsyscall]`, the only mapping that stays without.
        let anonymous = |m: &&mut super::image::Located| m.binary.is_none() && m.end <= KERNEL_START;
        let mut code = None;
        for mapping in image.mappings.iter_mut().filter(anonymous) {
            // Its addresses are those of the process.
            mapping.offset = mapping.start;
            mapping.binary = Some(Arc::clone(
                code.get_or_insert_with(|| self.code(tgid, start, now)),
            ));
        }
    }

    fn code(&mut self, tgid: u32, start: u64, now: Instant) -> Arc<Binary> {
        let status = std::fs::read_to_string(format!("/proc/{tgid}/status")).unwrap_or_default();
        let perf_map = PerfMap::of(&status).unwrap_or_default();
        if let Some((since, code)) = self.known.get(&tgid) {
            // Another program of the same process may run as another user.
            if *since == start && code.perf_map.as_ref() == Some(&perf_map) {
                return code.clone();
            }
            self.gone(tgid, now);
        }
        self.made += 1;
        let root = Open::root(tgid).filter(|_| self.open() < ROOTS);
        let code = Arc::new(Binary {
            // Files are numbered from below.
            id: u32::MAX - self.made,
            path: perf_map.path().into(),
            file: Open::new(root),
            build_id: String::new(),
            identity: Default::default(),
            table: Table {
                segments: vec![Segment {
                    offset: 0,
                    size: u64::MAX,
                    address: 0,
                }],
                by_frame_pointer: true,
                ..Table::default()
            },
            fault: String::new(),
            perf_map: Some(perf_map),
        });
        self.known.insert(tgid, (start, code.clone()));
        code
    }

    /// A process has ended.
    fn gone(&mut self, tgid: u32, now: Instant) {
        if let Some((_, code)) = self.known.remove(&tgid) {
            self.closing.push_back((now, code));
        }
    }

    /// To be called now and then: closes what nobody will ask any more. `lives` says which processes do.
    pub fn tidy(&mut self, now: Instant, lives: impl Fn(u32) -> bool) {
        let dead: Vec<u32> = self.known.keys().copied().filter(|tgid| !lives(*tgid)).collect();
        for tgid in dead {
            self.gone(tgid, now);
        }
        while let Some((since, code)) = self.closing.front()
            && now.saturating_duration_since(*since) >= IDLE
        {
            code.file.set(None);
            self.closing.pop_front();
        }
    }

    /// Root directories that are open.
    pub fn open(&self) -> usize {
        let known = self.known.values().map(|(_, code)| code);
        let all = known.chain(self.closing.iter().map(|(_, code)| code));
        all.filter(|code| code.file.get().is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::image::Located;

    #[test]
    fn code_is_its_processs_and_closed_a_while_after_its_end() {
        let mut jits = Jits::default();
        let now = Instant::now();
        let image = |tgid, jits: &mut Jits| {
            let mapping = |start, end| Located {
                start,
                end,
                offset: 0,
                binary: None,
            };
            let mut image = Image {
                tgid,
                start: 1,
                python: None,
                mappings: vec![
                    mapping(0x5000, 0x7000),
                    mapping(0x9000, 0xa000),
                    mapping(u64::MAX - 0xfff, u64::MAX),
                ],
            };
            jits.place(&mut image, now);
            image
        };
        // Another process whose root this user may open; its parent's it may not.
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, child) = (std::process::id(), other.id());
        let first = image(own, &mut jits);
        let code = |image: &Image, at: usize| image.mappings.get(at).and_then(|m| m.binary.clone());
        let own_code = code(&first, 0).unwrap();
        assert_eq!(code(&first, 1).unwrap().id, own_code.id);
        assert!(code(&first, 2).is_none(), "the kernel's");
        assert_eq!(own_code.path.to_str().unwrap(), format!("/tmp/perf-{own}.map"));
        assert_eq!(
            own_code.table.bias(0x5000, 0x5000),
            Some(0),
            "addresses are those of the process"
        );
        assert_eq!(code(&image(own, &mut jits), 0).unwrap().id, own_code.id);
        assert_ne!(code(&image(child, &mut jits), 0).unwrap().id, own_code.id);
        // No process has this id.
        assert_eq!(
            code(&image(1 << 30, &mut jits), 0).unwrap().perf_map,
            Some(PerfMap::default())
        );
        assert_eq!(jits.open(), 2);
        jits.tidy(now, |tgid| tgid == child);
        assert!(own_code.file.get().is_some());
        jits.tidy(now + IDLE, |tgid| tgid == child);
        assert!(own_code.file.get().is_none());
        assert_eq!(jits.open(), 1);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
