//! Probe `profile`: what functions are called, wherever their names are, and whoever has written them.

use anyhow::{Context as _, Result, ensure};
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tests::harness::agent::{Agent, Scratch, binary, clean};
use tests::harness::programs::JIT;
use tests::harness::stacks::{Busy, Folded, MAIN, all_named, build_id, cc, run, seen, spin, taking_stacks};
use tests::harness::{command, equal, pprof, together, unique};
use tests::need_root;

fn failures(agent: &Agent, reason: &str) -> Result<u64> {
    let all = "geophone_profile_name_failures_total";
    Ok(agent.snapshot()?.sum(all, &[("reason", reason)]))
}

/// Waits until so many failures of a reason are told: they are with the next round of names.
fn told(agent: &Agent, reason: &str, wanted: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while failures(agent, reason)? < wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
    }
    equal(reason, failures(agent, reason)?, wanted)
}

/// Removes the maps that a process has written.
struct Maps(u32);

impl Drop for Maps {
    fn drop(&mut self) {
        for ending in ["", ".real"] {
            let _ = std::fs::remove_file(format!("/tmp/perf-{}.map{ending}", self.0));
        }
    }
}

/// Cause: code made at run time, by processes that write its names as Node.js and Java do: one outside, one in a container, one
/// through a symbolic link, one whose file is another user's. Seen: the names of the first two, those too that come later; of
/// the others that they have none, and why.
#[test]
fn code_made_at_run_time() -> Result<()> {
    need_root!("cc", "unshare");
    let scratch = Scratch::new()?;
    let agent = taking_stacks().start()?;
    let program = |name: &str| cc(&scratch, name, JIT, &["-fno-omit-frame-pointer"]);
    let (mut running, mut maps) = (Vec::new(), Vec::new());
    let mut names = Vec::new();
    for mode in ["own", "link", "foreign"] {
        let name = unique("j");
        let busy = Busy::start(Command::new(program(&name)?).arg(mode))?;
        maps.push(Maps(busy.0.id()));
        running.push(busy);
        names.push(name);
    }
    let name = unique("j");
    let script =
        "mount -t tmpfs none /mnt && cp \"$0\" /mnt/ && mount -t tmpfs none /tmp && exec /mnt/$1 own";
    let contained = Busy::start(
        Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount", "sh", "-c", script])
            .arg(program(&name)?)
            .arg(&name),
    )?;
    running.push(contained);
    names.push(name);
    together(vec![0, 3], |own: usize| {
        seen(&agent, &names[own], |folded| {
            let shares = ["first made  at run time_[j]", "second_[j]"].map(|f| folded.share(&["main", f]));
            ensure!(
                folded.total() > 100 && shares.iter().all(|s| (0.3..0.7).contains(s)),
                "{shares:?}"
            );
            Ok(())
        })
    })?;
    together(vec![1, 2], |refused: usize| {
        seen(&agent, &names[refused], |folded| {
            let anonymous = folded.share(&["main", "[anonymous code]_[j]"]);
            ensure!(folded.total() > 100 && anonymous > 0.95, "{anonymous}");
            Ok(())
        })
    })?;
    told(&agent, "perf_map", 2)?;
    told(&agent, "perf_map_line", 6)?;
    let log = agent.log();
    ensure!(
        log.contains("symbolic link") && log.contains("is user 1's"),
        "{log}"
    );
    Ok(())
}

/// Cause: a script that Node.js compiles as it runs. Seen: its functions, by the names that Node.js gives them.
#[test]
fn functions_of_node() -> Result<()> {
    need_root!("node");
    let scratch = Scratch::new()?;
    let agent = taking_stacks().start()?;
    let script = "function hot(n) { let x = n; for (let i = 0; i < 1e6; i++) x = (x * 31 + i) % 65521; return x; }\n\
                  function caller(n) { return hot(n) + 1; }\nlet s = 0; const end = Date.now() + 300000;\n\
                  while (Date.now() < end) s += caller(s);\n";
    let script = scratch.write("script.js", script)?;
    let name = unique("n");
    let node = scratch.path(&name);
    let real = command::output(Command::new("node").args(["-p", "process.execPath"]))?;
    std::os::unix::fs::symlink(real.trim(), &node)?;
    let busy = Busy::start(Command::new(&node).arg("--perf-basic-prof").arg(script))?;
    let _map = Maps(busy.0.id());
    seen(&agent, &name, |folded| {
        let hot = |stack: &[String]| {
            stack
                .iter()
                .any(|f| f.starts_with("JS:") && f.contains("hot ") && f.ends_with("_[j]"))
        };
        let share = folded.count(hot) as f64 / folded.total().max(1) as f64;
        ensure!(folded.total() > 100 && share > 0.8, "{share}");
        Ok(())
    })
}

/// A C program whose debug information is in a file of its own. Returns the program, and that file.
fn split(scratch: &Scratch, options: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let program = cc(scratch, &unique("s"), &(spin("spinning") + MAIN), options)?;
    let debug = PathBuf::from(format!("{}.debug", program.display()));
    let objcopy = |arguments: &[&OsStr]| command::output(Command::new("objcopy").args(arguments));
    let (only, strip) = (OsStr::new("--only-keep-debug"), OsStr::new("--strip-all"));
    objcopy(&[only, program.as_os_str(), debug.as_os_str()])?;
    objcopy(&[strip, program.as_os_str()])?;
    Ok((program, debug))
}

/// Where a directory of debug information has that of a build id.
fn by_id(directory: &Path, id: &str) -> Result<PathBuf> {
    let (first, rest) = id.split_at_checked(2).context("a short build id")?;
    Ok(directory.join(format!(".build-id/{first}/{rest}.debug")))
}

/// Cause: stripped programs: the debug information of one lies by its build id in a directory that is configured, that of
/// one beside it by its name, and that of one beside it too, but it is another program's. Seen: the names of the functions of
/// the first two, and of the third what is enough to look them up.
#[test]
fn debug_information_elsewhere() -> Result<()> {
    need_root!("cc", "objcopy", "readelf");
    let scratch = Scratch::new()?;
    let directory = scratch.path("debug");
    let (identified, debug) = split(&scratch, &["-Wl,--build-id"])?;
    let place = by_id(&directory, &build_id(&identified)?)?;
    std::fs::create_dir_all(place.parent().context("no parent")?)?;
    std::fs::rename(debug, place)?;
    let linked = |beside: &str| -> Result<(PathBuf, PathBuf)> {
        let (program, debug) = split(&scratch, &["-Wl,--build-id=none"])?;
        let link = [
            OsStr::new("--add-gnu-debuglink"),
            debug.as_os_str(),
            program.as_os_str(),
        ];
        command::output(Command::new("objcopy").args(link))?;
        let place = scratch.path(beside).join(debug.file_name().context("no name")?);
        std::fs::create_dir_all(scratch.path(beside))?;
        std::fs::rename(debug, &place)?;
        Ok((program, place))
    };
    let (beside, _) = linked(".debug")?;
    let (other, changed) = linked(".")?;
    let mut bytes = std::fs::read(&changed)?;
    bytes.push(0);
    std::fs::write(changed, bytes)?;
    let directories = format!("[{}]", directory.display());
    let agent = taking_stacks()
        .set("probes.profile.debug_dirs", &directories)
        .start()?;
    together(vec![identified, beside], |program| {
        let (name, _busy) = run(&program)?;
        seen(&agent, &name, all_named)
    })?;
    let (name, _busy) = run(&other)?;
    seen(&agent, &name, |folded| {
        let nameless = |stack: &[String]| stack.iter().any(|f| f.starts_with(&format!("[{name}+0x")));
        let nameless = folded.count(nameless) as f64 / folded.total().max(1) as f64;
        ensure!(
            folded.total() > 100 && nameless > 0.95 && folded.through(&["spinning_leaf"]) == 0,
            "{nameless}"
        );
        Ok(())
    })
}

/// A server of debug information: what it has, and what it was asked for. It never ends what it sends of `endless`.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(has: Vec<(String, Vec<u8>)>, endless: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, asked) = (listener.local_addr()?, Arc::<Mutex<Vec<String>>>::default());
        let asks = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                let id = line.split('/').nth(2).unwrap_or_default().to_owned();
                asks.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(id.clone());
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
                let _ = match has.iter().find(|(known, _)| *known == id) {
                    Some((_, bytes)) => stream
                        .write_all(head.as_bytes())
                        .and_then(|()| stream.write_all(bytes)),
                    None if id == endless => {
                        let sent = stream.write_all(head.as_bytes());
                        sent.and_then(|()| std::io::copy(&mut std::io::repeat(7), &mut stream).map(|_| ()))
                    }
                    None => stream.write_all(
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    ),
                };
            }
        });
        Ok(Self { address, asked })
    }

    fn asked(&self, id: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|a| *a == id).count()
    }
}

/// Cause: three stripped programs with a build id, and a server that has the debug information of the first one, of the second
/// none, and of the third a file without end. Seen: the names of the first, and that each was asked for once; the same names
/// from an agent of later, without the server; and none if what it has kept is not sound.
#[test]
fn servers_of_debug_information_and_what_is_kept() -> Result<()> {
    need_root!("cc", "objcopy", "readelf");
    let scratch = Scratch::new()?;
    let made = |i: usize| {
        split(
            &scratch,
            &[&format!("-Wl,--build-id=0x{}{i:02x}", "a1".repeat(15))],
        )
    };
    let programs = (0..3).map(made).collect::<Result<Vec<_>>>()?;
    let ids = programs
        .iter()
        .map(|(program, _)| build_id(program))
        .collect::<Result<Vec<_>>>()?;
    let server = Server::start(
        vec![(ids[0].clone(), std::fs::read(&programs[0].1)?)],
        ids[2].clone(),
    )?;
    for (_, debug) in &programs {
        std::fs::remove_file(debug)?;
    }
    let cache = scratch.path("cache");
    let keeping = || {
        taking_stacks()
            .set("probes.profile.cache_dir", &cache.display().to_string())
            .set("probes.profile.cache_size", "16MiB")
    };
    let asking = keeping().set(
        "probes.profile.debuginfod",
        &format!("[\"http://{}\"]", server.address),
    );
    let mut agent = asking.start()?;
    let running = programs
        .iter()
        .map(|(program, _)| run(program))
        .collect::<Result<Vec<_>>>()?;
    let nameless = |folded: &Folded| {
        ensure!(
            folded.total() > 100 && folded.through(&["spinning_leaf"]) == 0,
            "names"
        );
        ensure!(
            folded.count(|stack| stack.iter().any(|f| f.contains("+0x"))) > 0,
            "no addresses"
        );
        Ok(())
    };
    together(running.iter().enumerate().collect(), |(i, (name, _))| match i {
        0 => seen(&agent, name, all_named),
        _ => seen(&agent, name, nameless),
    })?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while failures(&agent, "debuginfod")? < 2 {
        ensure!(
            Instant::now() < deadline,
            "{} failures",
            failures(&agent, "debuginfod")?
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    let asked = ids.iter().map(|id| server.asked(id)).collect::<Vec<_>>();
    ensure!(asked == [1, 1, 1], "{asked:?}");
    let kept = std::fs::read_dir(cache.join("debuginfod"))?.count();
    ensure!(kept == 1, "{kept} files are kept, what had no end among them");
    // Functions are written every ten seconds.
    let functions = loop {
        let kept = std::fs::read_dir(cache.join("functions"))
            .into_iter()
            .flatten()
            .flatten();
        let is_its = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|f| f.to_string_lossy().starts_with(&ids[0]))
        };
        if let Some(functions) = kept.map(|entry| entry.path()).find(is_its) {
            break functions;
        }
        ensure!(Instant::now() < deadline, "no functions are kept");
        std::thread::sleep(Duration::from_secs(1));
    };
    agent.signal(nix::sys::signal::Signal::SIGTERM)?;
    agent.wait(Duration::from_secs(20))?;
    std::fs::remove_dir_all(cache.join("debuginfod"))?;
    let agent = keeping().start()?;
    seen(&agent, &running[0].0, |folded| {
        ensure!(
            folded.total() > 100 && folded.share(&["spinning_for", "spinning_leaf"]) > 0.95,
            "not kept"
        );
        Ok(())
    })?;
    drop(agent);
    let mut bytes = std::fs::read(&functions)?;
    bytes.truncate(bytes.len() - 3);
    std::fs::write(&functions, bytes)?;
    let agent = keeping().start()?;
    seen(&agent, &running[0].0, nameless)?;
    told(&agent, "cache", 1)?;
    ensure!(agent.log().contains("it is thrown away"), "{}", agent.log());
    Ok(())
}

/// Cause: two programs that say that they are the same one, by their build id, and have other functions at the same places.
/// Seen: of each its own names, also from an agent of later, which has kept them.
#[test]
fn a_build_id_that_is_another_programs() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let source = spin("spinning") + MAIN;
    let forged = ["-Wl,--build-id=0xabababababababab"];
    let first = run(&cc(&scratch, &unique("k"), &source, &forged)?)?;
    let other = source.replace("spinning", "twisting");
    let second = run(&cc(&scratch, &unique("k"), &other, &forged)?)?;
    let cache = scratch.path("cache");
    let kept = || {
        let files = std::fs::read_dir(cache.join("functions"))
            .into_iter()
            .flatten()
            .flatten();
        files
            .filter(|file| file.file_name().to_string_lossy().starts_with("abababababababab"))
            .count()
    };
    for round in 0..2 {
        equal("files kept", kept(), 2 * round)?;
        let agent = taking_stacks()
            .set("probes.profile.cache_dir", &cache.display().to_string())
            .start()?;
        seen(&agent, &first.0, all_named)?;
        seen(&agent, &second.0, |folded| {
            let share = folded.share(&["twisting_for", "twisting", "twisting_leaf"]);
            ensure!(folded.total() > 100 && share > 0.95, "{share}");
            Ok(())
        })?;
        // Functions are written every ten seconds.
        let deadline = Instant::now() + Duration::from_secs(60);
        while kept() < 2 {
            ensure!(Instant::now() < deadline, "{} are kept", kept());
            std::thread::sleep(Duration::from_secs(1));
        }
        ensure!(failures(&agent, "cache")? == 0, "the cache is not sound");
        agent.stop()?;
    }
    Ok(())
}

/// Cause: a program whose functions are inlined into each other, and a stripped one like it whose debug information is elsewhere.
/// Seen: with `inlined`, each as a frame of its own, marked, and in pprof as lines of one location; without it none of them.
#[test]
fn inlined_functions() -> Result<()> {
    need_root!("cc", "objcopy", "readelf", "gzip");
    const SOURCE: &str = "#include <time.h>\n\
        static inline __attribute__((always_inline)) long innermost(volatile long *x) { \
        for (long i = 0; i < 2000000; i++) *x = *x * 31 + i; return *x; }\n\
        static inline __attribute__((always_inline)) long middle(volatile long *x) { return innermost(x) + 1; }\n\
        __attribute__((noinline)) long outer(long n) { volatile long x = n; return middle(&x) + x; }\n\
        int main(void) { time_t end = time(0) + 300; long s = 0; while (time(0) < end) s += outer(s); return s & 1; }\n";
    let scratch = Scratch::new()?;
    let with = cc(&scratch, &unique("i"), SOURCE, &["-g", "-gz=zlib"])?;
    let without = cc(&scratch, &unique("i"), SOURCE, &["-g", "-Wl,--build-id"])?;
    let place = by_id(&scratch.path("debug"), &build_id(&without)?)?;
    std::fs::create_dir_all(place.parent().context("no parent")?)?;
    let objcopy = |arguments: &[&OsStr]| command::output(Command::new("objcopy").args(arguments));
    objcopy(&[
        OsStr::new("--only-keep-debug"),
        without.as_os_str(),
        place.as_os_str(),
    ])?;
    objcopy(&[OsStr::new("--strip-all"), without.as_os_str()])?;
    let directories = format!("[{}]", scratch.path("debug").display());
    let set = || taking_stacks().set("probes.profile.debug_dirs", &directories);
    let running = [run(&with)?, run(&without)?];
    let agent = set().set("probes.profile.inlined", "true").start()?;
    together(running.iter().collect(), |(name, _)| {
        seen(&agent, name, |folded| {
            let share = folded.share(&["main", "outer", "middle_[i]", "innermost_[i]"]);
            ensure!(folded.total() > 100 && share > 0.9, "{share}");
            Ok(())
        })
    })?;
    let path = format!("/api/v1/profile?from=10s&comm={}&format=pprof", running[1].0);
    let profile = pprof::unpacked(&scratch, &agent.get(&path, "*/*")?.body)?;
    let name = |id: i64| {
        let function = profile.function.iter().find(|f| f.first == id)?;
        profile.strings.get(function.second as usize).map(String::as_str)
    };
    let lines = |location: &pprof::Location| {
        location
            .line
            .iter()
            .filter_map(|l| name(l.first))
            .collect::<Vec<_>>()
    };
    let nested = profile.location.iter().map(lines).find(|lines| lines.len() > 1);
    equal(
        "lines, innermost first",
        nested,
        Some(vec!["innermost", "middle", "outer"]),
    )?;
    drop(agent);
    let agent = set().start()?;
    together(running.iter().collect(), |(name, _)| {
        seen(&agent, name, |folded| {
            let outer = folded.share(&["main", "outer"]);
            ensure!(
                folded.total() > 100 && outer > 0.9 && folded.through(&["middle_[i]"]) == 0,
                "{outer}"
            );
            Ok(())
        })
    })?;
    Ok(())
}

/// Cause: BPF programs that a process runs over and over. Seen: their names, in the kernel's part of its stacks.
#[test]
fn programs_of_bpf() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let agent = taking_stacks().start()?;
    let name = unique("g");
    std::os::unix::fs::symlink(binary(), scratch.path(&name))?;
    let mut command = clean(scratch.path(&name));
    let _busy = Busy::start(command.args(["bench-packets", "--rounds", "2000"]))?;
    seen(&agent, &name, |folded| {
        let programs = ["tunnel_ingress [bpf]_[k]", "tunnel_egress [bpf]_[k]"];
        let share: f64 = programs.iter().map(|p| folded.share(&[p])).sum();
        ensure!(folded.total() > 100 && share > 0.2, "{share}");
        Ok(())
    })
}
