//! /proc/diskstats: what disks are called, and what the kernel itself counts.

use crate::record::Source;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A disk, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Requests that have ended.
    pub requests: u64,
    /// Requests that have begun and not ended.
    pub in_flight: u64,
}

/// All of them; of a recording, as they were then.
pub fn of(source: &Source) -> HashMap<u32, Disk> {
    source.ask("disks", read).unwrap_or_default()
}

/// All of them, by number: major << 20 | minor.
pub fn read() -> HashMap<u32, Disk> {
    parse(&std::fs::read_to_string("/proc/diskstats").unwrap_or_default())
}

fn parse(text: &str) -> HashMap<u32, Disk> {
    text.lines().filter_map(line).collect()
}

/// Columns as Documentation/admin-guide/iostats.rst numbers them; discards came with 4.18, flushes with 5.5.
fn line(text: &str) -> Option<(u32, Disk)> {
    let mut words = text.split_whitespace();
    let number = |word: Option<&str>| word?.parse::<u64>().ok();
    let (major, minor) = (number(words.next())?, number(words.next())?);
    let name = crate::aggregate::labels::clean(words.next()?);
    let columns: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let column = |n: usize| columns.get(n - 1).copied();
    let disk = Disk {
        name,
        requests: column(1)? + column(5)? + column(12).unwrap_or(0) + column(16).unwrap_or(0),
        in_flight: column(9)?,
    };
    Some(((major << 20 | minor) as u32, disk))
}

/// Whether a disk is worked off by requests. Others (dm, md, zram) hand on or serve what they are given at once, and have no
/// request that could be timed.
fn has_requests(name: &str, source: &Source) -> bool {
    let live = || {
        !name.contains("..")
            && std::path::Path::new(&format!("/sys/block/{}/mq", name.replace('/', "!"))).exists()
    };
    source.ask(&format!("disk {name} has requests"), live) == Some(true)
}

/// Our count of requests beside that of the kernel.
#[derive(Default)]
pub struct Coverage {
    disks: HashMap<u32, Counted>,
    /// Of disks that are gone.
    gone: u64,
}

struct Counted {
    base: u64,
    last: u64,
    has_requests: bool,
}

impl Coverage {
    /// What the kernel has counted since the first call.
    pub fn update(&mut self, disks: &HashMap<u32, Disk>, is_first: bool, source: &Source) -> u64 {
        for (number, disk) in disks {
            let counted = self.disks.entry(*number).or_insert_with(|| Counted {
                base: if is_first { disk.requests } else { 0 },
                last: 0,
                has_requests: has_requests(&disk.name, source),
            });
            if disk.requests < counted.last {
                // Another disk of the same number.
                self.gone += if counted.has_requests {
                    counted.last - counted.base
                } else {
                    0
                };
                counted.base = 0;
                counted.has_requests = has_requests(&disk.name, source);
            }
            counted.last = disk.requests;
        }
        let gone = &mut self.gone;
        self.disks.retain(|number, counted| {
            let is_there = disks.contains_key(number);
            if !is_there && counted.has_requests {
                *gone += counted.last - counted.base;
            }
            is_there
        });
        self.living().wrapping_add(self.gone)
    }

    fn living(&self) -> u64 {
        let living = self.disks.values().filter(|counted| counted.has_requests);
        living.map(|counted| counted.last - counted.base).sum()
    }

    /// What the kernel has counted is this now: a replay that begins in the middle has not seen it all.
    pub fn resume(&mut self, kernels: u64) {
        self.gone = kernels.wrapping_sub(self.living());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "   7       0 loop0 5 0 40 1 7 0 56 2 3 4 5 11 0 88 9 2 6\n 254 0 vda 1 2 3 4 5 6 7 8 0 10 11\nnonsense\n";

    #[test]
    fn columns_are_where_the_kernel_puts_them() {
        let disks = parse(TEXT);
        let disk = |name: &str, requests, in_flight| Disk {
            name: name.into(),
            requests,
            in_flight,
        };
        assert_eq!(disks.len(), 2, "{disks:?}");
        assert_eq!(disks.get(&(7 << 20)), Some(&disk("loop0", 5 + 7 + 11 + 2, 3)));
        // Before 4.18.
        assert_eq!(disks.get(&(254 << 20)), Some(&disk("vda", 6, 0)));
    }

    #[test]
    fn disks_come_and_go_and_nothing_is_counted_twice() {
        let mut coverage = Coverage::default();
        let with = |requests: &[(u32, u64)]| -> HashMap<u32, Disk> {
            let disk = |requests| Disk {
                name: "x".into(),
                requests,
                in_flight: 0,
            };
            requests.iter().map(|(number, n)| (*number, disk(*n))).collect()
        };
        let mut update = |requests: &[(u32, u64)], is_first| {
            let disks = with(requests);
            let n = coverage.update(&disks, is_first, &Source::Kernel);
            // No such disk is in /sys: let them all have requests.
            for counted in coverage.disks.values_mut() {
                counted.has_requests = true;
            }
            n
        };
        update(&[(1, 100), (2, 50)], true);
        assert_eq!(update(&[(1, 110), (2, 50)], false), 10);
        // One goes, another comes.
        update(&[(1, 110), (3, 0)], false);
        assert_eq!(update(&[(1, 110), (3, 7)], false), 17);
        assert_eq!(update(&[(3, 8)], false), 18);
    }
}
