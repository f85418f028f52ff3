//! Small files that are written as a whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Replaces a file by new content, so that a crash leaves the one or the other.
pub fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = beside(path);
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// The name under which a file is made before it takes the place of the old one.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Reads a list of JSON. Nothing if there is no such file; a file that cannot be read as one is put aside, and the text says so.
pub fn list<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".unreadable");
        let aside = path.with_file_name(name);
        let moved = fs::rename(path, &aside);
        let moved = moved.map_or_else(
            |error| format!("and cannot be put aside: {error}"),
            |()| format!("it is now {}", aside.display()),
        );
        format!("{}: {error}; {moved}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_one_that_is_broken_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l.json");
        assert_eq!(list::<u32>(&path), Ok(Vec::new()));
        replace(&path, b"[1]").unwrap();
        replace(&path, b"[1,2]").unwrap();
        assert_eq!(list::<u32>(&path), Ok(vec![1, 2]));
        replace(&path, b"[1,").unwrap();
        let error = list::<u32>(&path).unwrap_err();
        assert!(error.contains("l.json.unreadable"), "{error}");
        assert_eq!(
            fs::read(directory.path().join("l.json.unreadable")).unwrap(),
            b"[1,"
        );
        assert_eq!(list::<u32>(&path), Ok(Vec::new()));
    }
}
