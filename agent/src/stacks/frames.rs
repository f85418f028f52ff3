//! What a frame of a stack is called, by whoever shows it.

use super::names::{ANONYMOUS, INLINED};
use super::store::{Place, Row, Store};
use crate::aggregate::labels::{clean, text};
use agent_common::profile::end;

/// Name of a frame, if it has one.
fn symbol(store: &Store, frame: u32) -> Option<String> {
    match store.frame(frame)? {
        (_, Some(name)) => Some(name.to_string()),
        (Place::Cut(why), None) => {
            let why = end::NAMES.get(usize::from(why)).copied().unwrap_or("unknown");
            Some(format!("[cut: {why}]"))
        }
        (Place::Binary(id, _), None) if is_jit(store, id) => Some(ANONYMOUS.to_owned()),
        (Place::Waker(name), None) => Some(text(&name)),
        (_, None) => None,
    }
}

/// Whether it is code that was made at run time.
pub fn is_jit(store: &Store, binary: u32) -> bool {
    store.binary(binary).is_some_and(|b| b.perf_map.is_some())
}

/// Names of a frame, innermost first: those of functions that were inlined into each other, and last of the one that has
/// them; none if it has none.
pub fn functions(store: &Store, frame: u32) -> Vec<String> {
    let names = symbol(store, frame);
    names.map_or_else(Vec::new, |names| {
        names.split(INLINED).map(str::to_owned).collect()
    })
}

/// Names of a frame as they are shown, innermost first, each with whether it was inlined.
fn frame_names(store: &Store, frame: u32) -> Vec<(String, bool)> {
    let name = frame_name(store, frame);
    let mut names: Vec<(String, bool)> = name.split(INLINED).map(|n| (n.to_owned(), true)).collect();
    if let Some((_, is_inlined)) = names.last_mut() {
        *is_inlined = false;
    }
    names
}

/// Names of frames for people, innermost first.
pub fn shown_names(store: &Store, frames: &[u32]) -> Vec<String> {
    let names = frames.iter().flat_map(|frame| frame_names(store, *frame));
    names
        .map(|(name, is_inlined)| {
            if is_inlined {
                format!("{name} (inlined)")
            } else {
                name
            }
        })
        .collect()
}

/// Name of a frame as it is shown: without one, what is enough to find it elsewhere.
fn frame_name(store: &Store, frame: u32) -> String {
    if let Some(name) = symbol(store, frame) {
        return name;
    }
    match store.frame(frame).map(|(place, _)| place) {
        Some(Place::Binary(id, address)) => {
            let Some(binary) = store.binary(id) else {
                return format!("{address:#x}");
            };
            let file = binary
                .path
                .file_name()
                .unwrap_or(binary.path.as_os_str())
                .to_string_lossy();
            let file = clean(file.trim_matches(['[', ']'])).replace(';', " ");
            match binary.build_id.as_str() {
                "" => format!("[{file}+{address:#x}]"),
                id => format!("[{file}+{address:#x} {id}]"),
            }
        }
        Some(Place::Kernel(address) | Place::Anonymous(address) | Place::Unknown(address)) => {
            format!("{address:#x}")
        }
        Some(Place::Cut(_) | Place::Python(..) | Place::Waker(_)) | None => "[unknown]".into(),
    }
}

/// What folded stacks say of a frame besides its name: the kernel's, made at run time.
fn annotation(store: &Store, frame: u32) -> &'static str {
    match store.frame(frame) {
        Some((Place::Kernel(_), _)) => "_[k]",
        Some((Place::Binary(id, _), _)) if is_jit(store, id) => "_[j]",
        _ => "",
    }
}

/// Who ended a wait, and where: frames innermost first.
pub fn waker(store: &Store, row: &Row) -> Option<(String, Vec<String>)> {
    let frames = row.waker.get(1..)?;
    let frames = frames
        .iter()
        .flat_map(|frame| folded_names(store, *frame))
        .collect();
    Some((waker_name(store, row)?, frames))
}

/// Who ended a wait.
pub fn waker_name(store: &Store, row: &Row) -> Option<String> {
    Some(frame_name(store, *row.waker.first()?).replace([';', '\n'], " "))
}

/// Names of a frame among folded stacks, innermost first.
pub fn folded_names(store: &Store, frame: u32) -> Vec<String> {
    let names = frame_names(store, frame).into_iter();
    names
        .map(|(name, is_inlined)| match is_inlined {
            true => name + "_[i]",
            false => name + annotation(store, frame),
        })
        .collect()
}
