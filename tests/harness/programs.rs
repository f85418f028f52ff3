//! Programs of every kind of stack, written in C and C++, each busy for minutes on a way that is known.

use super::agent::Scratch;
use super::stacks::{Busy, MAIN, cc, named, spin};
use super::{command, unique};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes two functions at run time. Names the first one at once, among lines that make no sense, the second 3 s later; `link`:
/// in a file that a symbolic link leads to; `foreign`: in a file that is another user's.
pub const JIT: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    // push rbp; mov rbp, rsp; mov rcx, rdi; loop: dec rcx; jnz loop; pop rbp; ret
    static const char code[] = "\x55\x48\x89\xe5\x48\x89\xf9\x48\xff\xc9\x75\xfb\x5d\xc3";
    char *at = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, code, sizeof code);
    memcpy(at + 4096, code, sizeof code);
    char path[64], real[64];
    sprintf(path, "/tmp/perf-%d.map", getpid());
    sprintf(real, "%s%s", path, strcmp(argv[1], "link") ? "" : ".real");
    if (strcmp(real, path) && symlink(real, path)) return 1;
    FILE *map = fopen(real, "w");
    fprintf(map, "nonsense\n%lx 0 empty\nffffffffffffffff ff wraps\n", (long)at);
    fprintf(map, "%lx %x first made; at run time\n", (long)at, (int)sizeof code);
    fflush(map);
    if (!strcmp(argv[1], "foreign") && (fchown(fileno(map), 1, 1) || setuid(65534))) return 1;
    time_t start = time(0);
    for (int named = 0; time(0) < start + 300;) {
        ((void (*)(long))at)(10000000);
        ((void (*)(long))(at + 4096))(10000000);
        if (!named && time(0) > start + 3) {
            named = 1;
            fprintf(map, "%lx 10 second\n", (long)at + 4096);
            fflush(map);
        }
    }
}
"#;

/// A running program and the name of its process, which no other has.
pub struct Running {
    /// What kind it is.
    pub kind: &'static str,
    /// Name of the process.
    pub name: String,
    _busy: Busy,
}

fn start(kind: &'static str, program: &Path, command: &mut Command) -> Result<Running> {
    let (name, busy) = named(program, command)?;
    Ok(Running {
        kind,
        name,
        _busy: busy,
    })
}

/// A C program of these options.
fn c(scratch: &Scratch, kind: &'static str, source: &str, options: &[&str]) -> Result<Running> {
    let program = cc(scratch, &unique("c"), source, options)?;
    start(kind, &program, &mut Command::new(&program))
}

/// As compilers make them: tables, no frame pointers.
pub fn plain(scratch: &Scratch) -> Result<Running> {
    c(
        scratch,
        "plain",
        &(spin("spinning") + MAIN),
        &["-fomit-frame-pointer"],
    )
}

/// As the Go compiler makes them: frame pointers, no tables.
pub fn frame_pointers(scratch: &Scratch) -> Result<Running> {
    let options = [
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
        "-fno-omit-frame-pointer",
    ];
    c(scratch, "frame pointers", &(spin("spinning") + MAIN), &options)
}

/// Position-independent without a loader, and without a symbol.
pub fn stripped(scratch: &Scratch) -> Result<Running> {
    c(
        scratch,
        "stripped",
        &(spin("spinning") + MAIN),
        &["-static-pie", "-s"],
    )
}

/// Half of the time in a signal handler, on a stack of its own.
pub fn signals(scratch: &Scratch) -> Result<Running> {
    let source = spin("spinning")
        + &spin("handled")
        + "#include <signal.h>\n#include <sys/time.h>\nstatic char other[1 << 16];\n\
           static void handler(int s) { volatile long x = 0; for (int i = 0; i < 60; i++) x += handled(s); }\n\
           int main(void) { stack_t stack = {.ss_sp = other, .ss_size = sizeof other}; sigaltstack(&stack, 0);\n\
           struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK}; sigaction(SIGPROF, &action, 0);\n\
           struct itimerval every = {{0, 30000}, {0, 30000}}; setitimer(ITIMER_PROF, &every, 0);\n\
           return spinning_for(600) & 1; }\n";
    c(scratch, "signals", &source, &[])
}

/// More frames than a record holds.
pub fn deep(scratch: &Scratch) -> Result<Running> {
    let source = spin("spinning")
        + "__attribute__((noinline)) long deeper(long n) { volatile long a[3] = {n}; \
           return (n ? deeper(n - 1) : spinning_for(600)) + a[1]; }\n\
           int main(void) { return deeper(300) & 1; }\n";
    c(scratch, "deep", &source, &[])
}

/// In a mount namespace of its own, from a file that nobody outside sees.
pub fn contained(scratch: &Scratch) -> Result<Running> {
    let program = cc(scratch, &unique("c"), &(spin("spinning") + MAIN), &[])?;
    let inside = scratch.path("inside");
    std::fs::create_dir_all(&inside)?;
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none \"$1\" && mv \"$0\" \"$1\" && exec \"$1/$2\"";
    let name = program.file_name().context("no name")?.to_owned();
    command
        .args(["--mount", "sh", "-c", script])
        .arg(&program)
        .arg(inside)
        .arg(name);
    start("contained", &program, &mut command)
}

/// Virtual calls, threads, and exceptions through many frames.
pub fn cpp(scratch: &Scratch) -> Result<Running> {
    const SOURCE: &str = r#"
#include <ctime>
#include <stdexcept>
#include <thread>
[[gnu::noinline]] long leaf(long n) { volatile long x = n; for (long i = 0; i < 200000; i++) x = x * 31 + i; return x; }
struct Shape { virtual long area(long) = 0; virtual ~Shape() = default; };
struct Circle : Shape { [[gnu::noinline]] long area(long n) override { volatile long a[5] = {n}; return leaf(n) + a[2]; } };
struct Guard { long *sum; ~Guard() { *sum += 1; } };
[[gnu::noinline]] void thrower(long n, long *sum) {
    Guard guard{sum};
    if (n == 0) throw std::runtime_error("thrown");
    thrower(n - 1, sum);
}
[[gnu::noinline]] long catching(long n) {
    long sum = n;
    for (int i = 0; i < 30; i++) try { thrower(20, &sum); } catch (const std::exception &e) { sum += e.what()[0]; }
    return sum;
}
[[gnu::noinline]] long virtually(Shape *shape, time_t end) { long s = 0; while (time(0) < end) s += shape->area(s); return s; }
int main() {
    time_t end = time(0) + 600;
    Circle circle;
    std::thread other([&] { volatile long s = virtually(&circle, end); (void)s; });
    long s = 0;
    while (time(0) < end) s += catching(s);
    other.join();
    return s & 1;
}
"#;
    let (name, code) = (unique("x"), scratch.write("program.cc", SOURCE)?);
    let program = scratch.path(&name);
    command::output(
        Command::new("c++")
            .args(["-O2", "-pthread", "-o"])
            .arg(&program)
            .arg(code),
    )?;
    start("c++", &program, &mut Command::new(&program))
}

/// CPython, by a name of its own.
pub fn python(scratch: &Scratch) -> Result<Running> {
    let real = command::output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]))?;
    let program = scratch.path(&unique("y"));
    std::os::unix::fs::symlink(real.trim(), &program)?;
    let script = "def leaf(n):\n  x = n\n  for i in range(2000): x = x * 31 % 65521 + i\n  return x\n\
                  def caller(n): return leaf(n) + 1\nwhile True: caller(3)\n";
    let mut command = Command::new(&program);
    command.args(["-c", script]);
    start("python", &program, &mut command)
}

/// Starts programs one after the other, `rate` a second, for so many seconds: each of `files` in turn, which live for some
/// milliseconds. Ends with the number that it has started.
pub fn storm(scratch: &Scratch, files: &[PathBuf], rate: u32, seconds: u32) -> Result<u64> {
    const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
extern char **environ;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int argc, char **argv) {
    double rate = atof(argv[1]), seconds = atof(argv[2]), start = now();
    long started = 0;
    while (now() - start < seconds) {
        while (started < (now() - start) * rate) {
            char *words[] = {argv[3 + started % (argc - 3)], "0", 0};
            pid_t pid;
            if (posix_spawn(&pid, words[0], 0, 0, words, environ)) return 1;
            started++;
        }
        while (waitpid(-1, 0, WNOHANG) > 0) {}
        struct timespec pause = {0, 500000};
        nanosleep(&pause, 0);
    }
    while (wait(0) > 0) {}
    printf("%ld\n", started);
    return 0;
}
"#;
    let program = cc(scratch, "storm", SOURCE, &[])?;
    let text = command::output(
        Command::new(program)
            .args([rate.to_string(), seconds.to_string()])
            .args(files),
    )?;
    text.trim().parse().context("the storm says no number")
}

/// Many files of one static program that is busy for a moment: to whoever looks at files they are different programs.
pub fn many(scratch: &Scratch, number: u32) -> Result<Vec<PathBuf>> {
    let source = spin("brief") + "int main(void) { return (int)brief(3) & 1; }\n";
    let program = cc(scratch, "brief", &source, &["-static-pie"])?;
    (0..number)
        .map(|i| {
            let copy = scratch.path(&format!("brief{i}"));
            std::fs::copy(&program, &copy)?;
            Ok(copy)
        })
        .collect()
}
