//! Probe `profile`: stacks of page faults and of requests to disks.

use anyhow::{Context as _, Result, ensure};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::disk::Loop;
use tests::harness::stacks::{Busy, Folded, cc};
use tests::harness::{Agent, Setup, command, equal, near, unique};
use tests::need_root;

fn folded(agent: &Agent, query: &str) -> Result<Folded> {
    let answer = agent.get(&format!("/api/v1/profile?format=folded&from=10m&{query}"), "*/*")?;
    ensure!(answer.status == 200, "{}", answer.text());
    Folded::parse(&answer.text())
}

/// Cause: a program touches fresh pages: a few at a time until it is known, then 50,000. Seen: as many faults as the kernel
/// has counted for it within 2 %, in the function that touches them.
#[test]
fn where_pages_are_touched() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let (go, done) = (scratch.path("go"), scratch.path("done"));
    let source = format!(
        "#define _GNU_SOURCE\n#include <stdio.h>\n#include <sys/mman.h>\n#include <sys/resource.h>\n#include <unistd.h>\n\
         __attribute__((noinline)) long touch_leaf(volatile char *p, long n) {{ long s = 0; \
         for (long i = 0; i < n; i++) {{ p[i * 4096] = 1; s += p[i * 4096]; }} return s; }}\n\
         __attribute__((noinline)) long touching(long n) {{ volatile long a[5] = {{n}}; \
         char *p = mmap(0, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); \
         madvise(p, n * 4096, MADV_NOHUGEPAGE); long s = touch_leaf(p, n); munmap(p, n * 4096); return s + a[2]; }}\n\
         int main(void) {{ long s = 0; while (access(\"{}\", F_OK)) {{ s += touching(200); usleep(50000); }}\n\
         s += touching(50000); struct rusage u; getrusage(RUSAGE_SELF, &u);\n\
         FILE *f = fopen(\"{1}.new\", \"w\"); fprintf(f, \"%ld\", u.ru_minflt); fclose(f); rename(\"{1}.new\", \"{1}\"); \
         pause(); return s & 1; }}\n",
        go.display(),
        done.display()
    );
    let name = unique("t");
    let program = cc(&scratch, &name, &source, &[])?;
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "0")
        .set("probes.profile.faults", "true")
        .set("probes.profile.fault_period", "97")
        .start()?;
    let _busy = Busy::start(&mut Command::new(&program))?;
    let query = format!("type=fault&comm={name}");
    let way = ["_start", "main", "touching", "touch_leaf", "[minor]"];
    let start = Instant::now();
    while folded(&agent, &query)?.through(&way) == 0 {
        ensure!(start.elapsed() < PATIENCE, "it is never looked at");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::fs::write(&go, "")?;
    agent.until(|_| {
        let truth: f64 = std::fs::read_to_string(&done).context("not done")?.parse()?;
        let seen = folded(&agent, &query)?;
        println!("{} of {truth}", seen.total());
        near("faults", seen.total() as f64, truth, 0.02)?;
        ensure!(seen.through(&way) > 45_000, "{}", seen.show());
        equal(
            "in the leaf",
            seen.through(&["touch_leaf"]) > seen.total() * 98 / 100,
            true,
        )
    })?;
    agent.settles(|s| s.lawful())
}

/// Cause: a program reads a disk directly. Seen: its way through the kernel, the disk, and as much time as the histogram of
/// the same requests has.
#[test]
fn who_reads_a_disk() -> Result<()> {
    need_root!("losetup", "dd");
    let disk = Loop::new(64 << 20)?;
    let agent = Setup::new()
        .set("probes.block.enabled", "true")
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "0")
        .set("probes.profile.block_io", "true")
        .start()?;
    for _ in 0..10 {
        let dd = format!(
            "dd status=none if={} of=/dev/null iflag=direct bs=16k count=100",
            disk.path
        );
        command::run(&dd)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    agent.until(|s| {
        let label = format!("[{} read]", disk.name());
        let mut seen = folded(&agent, "type=block_io&comm=dd")?;
        seen.0.retain(|(stack, _)| stack.last() == Some(&label));
        let own = [("device", disk.name()), ("operation", "read")];
        let histogram = s.histogram("geophone_block_io_seconds", &own)?;
        equal("reads", histogram.count, 1000)?;
        // In µs. Of many requests in a second only some are sampled, and some take far longer than others.
        near("time", seen.total() as f64 / 1e6, histogram.sum, 0.5)?;
        let way = ["ksys_read_[k]", "vfs_read_[k]", "submit_bio_noacct_nocheck_[k]"];
        equal("by its reads", seen.through(&way), seen.total())
    })?;
    agent.settles(|s| s.lawful())
}
