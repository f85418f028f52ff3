//! Which interpreters and virtual machines run here, and whether their own frames are seen.
//!
//! Of those that are not, stacks show the C code of the interpreter and code without names: that is true, but rarely what
//! somebody looks for, and `geophone check` says so.

use super::image::open;
use super::maps::{self, Origin};
use super::perf_map::PerfMap;
use super::python::runtime;
use super::table;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// An interpreter that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interpreter {
    /// Its language and, if it is known, its version.
    pub name: String,
    /// Processes that run it, the lowest ids first, a few of them.
    pub processes: Vec<u32>,
    /// How many there are.
    pub count: usize,
    /// Whether functions of its language are in the stacks.
    pub supported: bool,
    /// Why not, and what helps.
    pub note: String,
}

/// Ids that are named.
const NAMED: usize = 3;

/// By the beginning of the name of its program or library: language, and what helps; empty = nothing does yet.
const KINDS: &[(&str, &str, &str)] = &[
    ("python", "python", ""),
    ("libpython", "python", ""),
    ("perl", "perl", ""),
    ("libperl", "perl", ""),
    ("ruby", "ruby", ""),
    ("libruby", "ruby", ""),
    ("php", "php", ""),
    ("libphp", "php", ""),
    ("luajit", "lua", ""),
    ("libluajit", "lua", ""),
    ("lua", "lua", ""),
    ("liblua", "lua", ""),
    ("node", "node", "start it with --perf-basic-prof"),
    ("libnode", "node", "start it with --perf-basic-prof"),
    (
        "libjvm.so",
        "jvm",
        "have an agent in it write /tmp/perf-PID.map, e.g. libperfmap",
    ),
    ("libcoreclr.so", "dotnet", "start it with DOTNET_PerfMapEnabled=1"),
    ("libmonosgen", "mono", ""),
    ("beam.smp", "erlang", "start it with +JPperf true"),
];

/// Language and remedy of a program or library.
fn kind(path: &Path) -> Option<(&'static str, &'static str)> {
    let name = path.file_name()?.to_str()?;
    KINDS
        .iter()
        .find(|(begin, ..)| {
            name.strip_prefix(begin).is_some_and(|rest| {
                // What may follow is a version, or the ending of a library: `lua5.4`, not `luatex`; `perl`, not `perlbug`.
                let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || "._-".contains(c));
                rest.is_empty() || rest == "so" || rest.starts_with("so.") || *begin == "libphp"
            })
        })
        .map(|(_, language, remedy)| (*language, *remedy))
}

/// All that run here, as far as their processes may be looked at.
pub fn running() -> Vec<Interpreter> {
    let mut found: BTreeMap<(String, bool, String), Vec<u32>> = BTreeMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some((name, verdict)) = of(pid) {
            let key = (name, verdict.is_ok(), verdict.err().unwrap_or_default());
            found.entry(key).or_default().push(pid);
        }
    }
    found
        .into_iter()
        .map(|((name, supported, note), mut processes)| {
            processes.sort_unstable();
            let count = processes.len();
            processes.truncate(NAMED);
            Interpreter {
                name,
                processes,
                count,
                supported,
                note,
            }
        })
        .collect()
}

/// The interpreter of a process, and why its frames are not seen if they are not.
fn of(pid: u32) -> Option<(String, Result<(), String>)> {
    let text = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
    let mappings = maps::parse(&text);
    let mut found = None;
    for mapping in &mappings {
        let Origin::File(_, path) = &mapping.origin else {
            continue;
        };
        let Some((language, remedy)) = kind(path) else {
            continue;
        };
        if language != "python" {
            let verdict = if has_perf_map(pid) {
                Ok(())
            } else {
                Err(remedy.to_owned())
            };
            return Some((language.to_owned(), verdict));
        }
        // The program may be a small one whose library is the interpreter.
        let version = python(pid, mapping, path);
        if found.is_none() || version.is_ok() {
            let (version, verdict) = version.unwrap_or_else(|why| (String::new(), Err(why)));
            let version = if version.is_empty() { named(path) } else { version };
            found = Some((format!("python {version}"), verdict));
        }
    }
    found
}

/// The version in the name of a file: `libpython3.9.so.1.0` is 3.9.
fn named(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let after = name.split("python").nth(1).unwrap_or_default();
    let version: String = after
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    version.trim_end_matches('.').to_owned()
}

/// The version of the Python that a file has, and why its frames are not seen; an error = why it is not known to have any.
fn python(pid: u32, mapping: &maps::Mapping, path: &Path) -> Result<(String, Result<(), String>), String> {
    let file = open(pid, mapping, path).map_err(|e| format!("its file cannot be opened: {e}"))?;
    let symbols =
        runtime::symbols(&file, path).ok_or("its file exports no _PyRuntime, as CPython does since 3.7")?;
    let symbols = table::segments(&file)
        .and_then(|table| symbols.moved(&table, mapping))
        .ok_or("its file has no part that is mapped so")?;
    let memory = match File::open(format!("/proc/{pid}/mem")) {
        Ok(memory) => memory,
        Err(e) => return Ok((String::new(), Err(format!("its memory may not be read: {e}")))),
    };
    let number = symbols.version.and_then(|at| runtime::word(&memory, at));
    let version = number.map(runtime::spoken).unwrap_or_default();
    Ok((version, runtime::version(&memory, symbols).map(drop)))
}

/// Whether a process writes down where its functions are.
fn has_perf_map(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let map = PerfMap::of(&status);
    map.is_some_and(|map| Path::new(&format!("/proc/{pid}/root{}", map.path())).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_their_files_and_others_are_not() {
        let language = |path: &str| kind(Path::new(path)).map(|(language, _)| language);
        for (path, expected) in [
            ("/usr/bin/perl", Some("perl")),
            ("/usr/bin/perl5.36.0", Some("perl")),
            ("/usr/lib/libperl.so.5.36", Some("perl")),
            ("/usr/bin/ruby3.1", Some("ruby")),
            ("/usr/lib/libruby-3.1.so.3.1.2", Some("ruby")),
            ("/usr/bin/php8.2", Some("php")),
            ("/usr/lib/apache2/modules/libphp8.2.so", Some("php")),
            ("/usr/bin/lua5.4", Some("lua")),
            ("/usr/bin/luatex", None),
            ("/usr/bin/python3.11", Some("python")),
            ("/x/libpython3.12.so.1.0", Some("python")),
            ("/usr/lib/jvm/lib/server/libjvm.so", Some("jvm")),
            ("/usr/bin/node", Some("node")),
            ("/usr/bin/node_exporter", None),
            ("/usr/bin/phpstorm", None),
            ("/usr/lib/libnodeups.so.3", None),
        ] {
            assert_eq!(language(path), expected, "{path}");
        }
        assert_eq!(named(Path::new("/usr/lib/libpython3.9.so.1.0")), "3.9");
        assert_eq!(named(Path::new("/usr/bin/python2.7")), "2.7");
    }
}
