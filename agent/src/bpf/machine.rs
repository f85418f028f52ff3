//! What the programs must know of the architecture: constants of the one object that is loaded on all of them.

use super::host;
use std::fs;

/// The constants, by their names in the programs (agent-ebpf/src/settings.rs).
pub(super) struct Machine {
    /// `AARCH64`.
    pub aarch64: u32,
    /// `USER_BITS`.
    pub user_bits: u64,
    /// `SYS_FUTEX`.
    pub futex: u32,
    /// `THREAD_SIZE`.
    pub thread_size: u64,
    /// `THREAD_REACH`.
    pub thread_reach: u64,
}

/// Size of a kernel stack, where pages are not larger.
const THREAD_SIZE: u64 = 16 << 10;
/// glibc's `struct pthread` has 1.8 kB and lies right below the thread pointer, that of musl 200 bytes.
const THREAD_REACH: u64 = 4 << 10;

impl Machine {
    /// Of this machine.
    pub fn here() -> Self {
        let is_aarch64 = cfg!(target_arch = "aarch64");
        let own = || fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self {
            aarch64: u32::from(is_aarch64),
            user_bits: if is_aarch64 { user_bits(&own()) } else { u64::MAX },
            futex: libc::SYS_futex as u32,
            thread_size: THREAD_SIZE.max(host::page_size()),
            thread_reach: if is_aarch64 { THREAD_REACH } else { 0 },
        }
    }
}

/// The bits of addresses of programs, of their mappings: stacks lie in the topmost gigabyte. What is above them may be a
/// signature. Kernels of 52 bits give addresses of 48 unless they are asked for others.
fn user_bits(maps: &str) -> u64 {
    let end = |line: &str| u64::from_str_radix(line.split_once(' ')?.0.split_once('-')?.1, 16).ok();
    let highest = maps.lines().filter_map(end).max().unwrap_or(1 << 48);
    highest
        .saturating_sub(1)
        .checked_next_power_of_two()
        .map_or(u64::MAX, |bits| bits - 1)
}

#[cfg(test)]
mod tests {
    use super::user_bits;

    #[test]
    fn addresses_have_as_many_bits_as_the_highest() {
        let maps = "aaaad5a90000-aaaad5a91000 r-xp 00000000 00:02 5 /x\nffffc1d3e000-ffffc1d5f000 rw-p 00000000 00:00 0 [stack]\n";
        assert_eq!(user_bits(maps), (1 << 48) - 1);
        assert_eq!(
            user_bits("7fc5d2f000-7fc5d50000 rw-p 0 00:00 0 [stack]\n"),
            (1 << 39) - 1
        );
        assert_eq!(user_bits(""), (1 << 48) - 1);
    }
}
