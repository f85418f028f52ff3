//! Names of kernel addresses, a few at a time.
//!
//! /proc/kallsyms has 200,000 lines; the agent needs a dozen names. So the file is not kept: it is read through once
//! for each address that nobody has asked for yet, which takes a tenth of a second and no memory, and only while somebody
//! listens to drops.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

/// Most names that are kept; kernels have a few hundred places that drop packets.
const CAPACITY: usize = 4096;

/// Names of kernel addresses.
pub struct Symbols {
    path: PathBuf,
    names: HashMap<u64, String>,
}

impl Symbols {
    /// Reads names from a file of kallsyms' format.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            names: HashMap::new(),
        }
    }

    /// `function+0xoffset`; the address itself when symbols are hidden (kernel.kptr_restrict).
    pub fn name(&mut self, address: u64) -> String {
        if let Some(name) = self.names.get(&address) {
            return name.clone();
        }
        let name = self.find(address).unwrap_or_else(|| format!("{address:#x}"));
        if self.names.len() < CAPACITY {
            self.names.insert(address, name.clone());
        }
        name
    }

    fn find(&self, address: u64) -> Option<String> {
        let mut reader = BufReader::with_capacity(1 << 16, File::open(&self.path).ok()?);
        let mut best: Option<(u64, String)> = None;
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 0 {
            let mut parts = line.split_ascii_whitespace();
            if let (Some(at), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next())
                && let Ok(at) = u64::from_str_radix(at, 16)
                && at != 0
                && at <= address
                && kind.eq_ignore_ascii_case("t")
                && best.as_ref().is_none_or(|(b, _)| at > *b)
            {
                best = Some((at, name.to_owned()));
            }
            line.clear();
        }
        let (at, name) = best?;
        Some(format!("{name}+{:#x}", address - at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_function_below_is_the_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "0000000000001000 T first\n0000000000002000 t second\n0000000000002100 d data\n0000000000003000 T third\n",
        )
        .unwrap();
        let mut symbols = Symbols::new(file.path());
        assert_eq!(symbols.name(0x2110), "second+0x110");
        assert_eq!(symbols.name(0x1000), "first+0x0");
        assert_eq!(symbols.name(0x10), "0x10");
    }

    #[test]
    fn hidden_symbols_leave_the_address() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0000000000000000 T first\n").unwrap();
        assert_eq!(Symbols::new(file.path()).name(0xffff), "0xffff");
        assert_eq!(Symbols::new("/nonexistent").name(0xffff), "0xffff");
    }
}
