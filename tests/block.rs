//! Probe `block`.

use anyhow::{Result, ensure};
use std::path::PathBuf;
use tests::harness::agent::Scratch;
use tests::harness::disk::{Loop, OPERATIONS};
use tests::harness::{Setup, Snapshot, command, equal, near};
use tests::need_root;

const IO: &str = "geophone_block_io_seconds";
const BYTES: &str = "geophone_block_bytes_total";
fn of<'a>(disk: &'a Loop, operation: &'a str) -> [(&'a str, &'a str); 2] {
    [("device", disk.name()), ("operation", operation)]
}

/// Cause: direct reads and writes, writes that must be durable, discards. Seen: as many requests, bytes and as much time as
/// /proc/diskstats has of each, and of all disks together as many as the kernel.
#[test]
fn requests_are_those_of_diskstats() -> Result<()> {
    need_root!("losetup", "blkdiscard", "dd");
    let disk = Loop::new(64 << 20)?;
    let agent = Setup::new().set("probes.block.enabled", "true").start()?;
    let before = disk.truth()?;
    let dd = |words: &str| command::run(&format!("dd status=none {words}"));
    let device = &disk.path;
    dd(&format!("if={device} of=/dev/null iflag=direct bs=4k count=2000"))?;
    dd(&format!(
        "if=/dev/zero of={device} oflag=direct bs=16k count=1000"
    ))?;
    dd(&format!(
        "if=/dev/zero of={device} oflag=direct,dsync bs=4k count=100"
    ))?;
    dd(&format!("if=/dev/zero of={device} bs=1M count=8 conv=fsync"))?;
    command::run(&format!("blkdiscard --offset 16M --length 8M {device}"))?;
    agent.settles(|s| {
        let (now, flushes) = disk.truth()?;
        for ((operation, now), before) in OPERATIONS.iter().zip(now).zip(before.0) {
            let own = of(&disk, operation);
            let [requests, sectors, ms] = [0, 1, 2].map(|i| now[i] - before[i]);
            equal(operation, s.sum(IO, &own), requests)?;
            equal(operation, s.sum(BYTES, &own), sectors * 512)?;
            let sum = s.histogram(IO, &own)?.sum;
            // The kernel looks at the clock once more, after it has woken who waits, and may be interrupted there.
            let kernels = ms as f64 / 1e3;
            ensure!(
                sum <= kernels + 0.003 && sum >= 0.5 * kernels - 0.003,
                "{operation}: {sum} s, the kernel has {ms} ms"
            );
            ensure!(requests > 0, "no {operation}");
        }
        ensure!(flushes > before.1 + 100, "{flushes} flushes");
        equal("flush", s.sum(IO, &of(&disk, "flush")), flushes - before.1)?;
        equal(
            "errors",
            s.sum("geophone_block_errors_total", &[("device", disk.name())]),
            0,
        )?;
        equal(
            "in flight",
            s.number("geophone_block_in_flight", &[("device", disk.name())])?,
            0.0,
        )?;
        s.lawful()?;
        near(
            "coverage",
            s.number("geophone_block_coverage_ratio", &[])?,
            1.0,
            0.01,
        )
    })
}

/// Cause: a disk on a file for which there is no room. Seen: errors where the kernel could not write.
#[test]
fn what_fails_is_an_error() -> Result<()> {
    need_root!("losetup", "dd");
    let scratch = Scratch::new()?;
    let small = Mount::tmpfs(scratch.path("small"), "1m")?;
    let file = small.0.join("disk");
    std::fs::File::create(&file)?.set_len(16 << 20)?;
    let disk = Loop::on(&file, scratch)?;
    let agent = Setup::new().set("probes.block.enabled", "true").start()?;
    let dd = format!(
        "dd status=none if=/dev/zero of={} oflag=direct bs=64k count=64",
        disk.path
    );
    ensure!(command::run(&dd).is_err(), "there was room");
    agent.settles(|s: &Snapshot| {
        let errors = s.sum("geophone_block_errors_total", &of(&disk, "write"));
        let requests = s.sum(IO, &of(&disk, "write"));
        // dd ends at the first one.
        ensure!(
            errors == 1 && requests > 1,
            "{errors} errors in {requests} requests"
        );
        Ok(())
    })?;
    drop(disk);
    drop(small);
    Ok(())
}

/// A file system that goes with its owner.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: PathBuf, size: &str) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        command::run(&format!("mount -t tmpfs -o size={size} none {}", at.display()))?;
        Ok(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = command::run(&format!("umount -l {}", self.0.display()));
    }
}
