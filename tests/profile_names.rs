//! Probe `profile`: what functions are called, wherever their names are, and whoever has written them.

use anyhow::{Context as _, Result, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::{Agent, Scratch};
use tests::harness::stacks::{Busy, Folded, build_id, cc, spin, taking_stacks};
use tests::harness::{command, unique};
use tests::need_root;

/// Asks for the stacks of a process of this name until they are as wanted.
fn seen(agent: &Agent, name: &str, check: impl Fn(&Folded) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let answer = agent.get(
            &format!("/api/v1/profile?from=4s&comm={name}&format=folded"),
            "*/*",
        )?;
        ensure!(answer.status == 200, "{}", answer.text());
        let folded = Folded::parse(&answer.text())?;
        match check(&folded) {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() > deadline => {
                return Err(e.context(format!("{name}:\n{}", folded.show())));
            }
            Err(_) => {}
        }
    }
}

fn share(folded: &Folded, functions: &[&str]) -> f64 {
    folded.through(functions) as f64 / folded.total().max(1) as f64
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
    std::os::unix::fs::symlink(which("node")?, &node)?;
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

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|p| p.join(program))
        .find(|p| p.exists());
    Ok(std::fs::canonicalize(
        found.unwrap_or_else(|| PathBuf::from(program)),
    )?)
}

const MAIN: &str = "int main(void) { return spinning_for(300) & 1; }\n";
/// Its functions, outermost first; none of them is exported.
const SPINNING: &[&str] = &["_start", "main", "spinning_for", "spinning", "spinning_leaf"];

/// A C program whose debug information is in a file of its own. Returns the program, and that file.
fn split(scratch: &Scratch, options: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let program = cc(scratch, &unique("s"), &(spin("spinning") + MAIN), options)?;
    let debug = program.with_extension("debug");
    let objcopy = |arguments: &[&OsStr]| command::output(Command::new("objcopy").args(arguments));
    let (only, strip) = (OsStr::new("--only-keep-debug"), OsStr::new("--strip-all"));
    objcopy(&[only, program.as_os_str(), debug.as_os_str()])?;
    objcopy(&[strip, program.as_os_str()])?;
    Ok((program, debug))
}

/// Starts a program; returns its name.
fn run(program: &Path) -> Result<(String, Busy)> {
    let name = program.file_name().context("no name")?.to_string_lossy();
    Ok((name.into_owned(), Busy::start(&mut Command::new(program))?))
}

/// Where a directory of debug information has that of a build id.
fn by_id(directory: &Path, id: &str) -> Result<PathBuf> {
    let (first, rest) = id.split_at_checked(2).context("a short build id")?;
    Ok(directory.join(format!(".build-id/{first}/{rest}.debug")))
}

fn all_named(folded: &Folded) -> Result<()> {
    let named = share(folded, SPINNING);
    ensure!(folded.total() > 100 && named > 0.95, "{named}");
    Ok(())
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
    for program in [identified, beside] {
        let (name, _busy) = run(&program)?;
        seen(&agent, &name, all_named)?;
    }
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
