//! The places of a user's addresses: in files, in what runs Python, and nowhere.

use super::image::{Binary, Image};
use super::python::Frame;
use super::store::Place;
use agent_common::profile::{RUNS_PYTHON, end};
use std::sync::Arc;

/// The innermost address is where the thread was; the others are where calls return to, and the call is before that.
pub(super) const fn call(frame: usize, address: u64) -> u64 {
    address.saturating_sub(if frame == 0 { 0 } else { 1 })
}

/// Splits words, which may be fewer than what was said of them.
pub(super) fn split_at(words: &[u64], at: usize) -> (&[u64], &[u64]) {
    words.split_at(at.min(words.len()))
}

/// The user's frames, each run of Python's inside of the frame of the loop that runs it.
pub(super) fn resolve(
    why: u8,
    user: &[u64],
    runs: Vec<Frame>,
    image: &Image,
    places: &mut Vec<Place>,
    binaries: &mut Vec<Arc<Binary>>,
) {
    let mut runs = runs.into_iter();
    for (i, address) in user.iter().enumerate() {
        if address & RUNS_PYTHON != 0 {
            for frame in runs.by_ref() {
                places.extend(frame.place);
                if frame.is_last {
                    break;
                }
            }
        }
        let address = call(i, address & !RUNS_PYTHON);
        let located = image.find(address);
        let place = match located.map(|l| (l, &l.binary)) {
            Some((located, Some(binary))) => match binary.table.bias(located.start, located.offset) {
                Some(bias) => {
                    if !binaries.iter().any(|known| known.id == binary.id) {
                        binaries.push(binary.clone());
                    }
                    Place::Binary(
                        binary.id,
                        address.wrapping_sub(bias).wrapping_add(binary.table.base),
                    )
                }
                None => Place::Unknown(address),
            },
            Some((_, None)) => Place::Anonymous(address),
            None => Place::Unknown(address),
        };
        places.push(place);
        // Before anybody had looked at the process frame pointers were followed. Where the code has none, only the innermost
        // frame is true.
        let has_rows = located
            .and_then(|l| l.binary.as_ref())
            .is_some_and(|b| !b.table.by_frame_pointer && b.fault.is_empty());
        if why == end::UNKNOWN_PROCESS && (has_rows || matches!(place, Place::Unknown(_))) {
            return;
        }
    }
    // Of a stack that was cut, those of C frames beyond it.
    places.extend(runs.filter_map(|frame| frame.place));
}

#[cfg(test)]
mod tests {
    use super::super::image::{Located, Open};
    use super::super::table::{Segment, Table};
    use super::*;
    use std::path::PathBuf;

    fn binary(id: u32, by_frame_pointer: bool) -> Arc<Binary> {
        Arc::new(Binary {
            id,
            path: PathBuf::from("/bin/x"),
            file: Open::default(),
            build_id: String::new(),
            identity: Default::default(),
            table: Table {
                base: 0x40_0000,
                segments: vec![Segment {
                    offset: 0x1000,
                    size: 0x2000,
                    address: 0x40_1000,
                }],
                by_frame_pointer,
                ..Table::default()
            },
            fault: String::new(),
            perf_map: None,
        })
    }

    fn image(by_frame_pointer: bool) -> Image {
        let located = |start, binary| Located {
            start,
            end: start + 0x2000,
            offset: 0x1000,
            binary,
        };
        Image {
            tgid: 1,
            start: 1,
            python: None,
            mappings: vec![
                located(0x5000_1000, Some(binary(7, by_frame_pointer))),
                located(0x7000_0000, None),
            ],
        }
    }

    fn places(why: u8, by_frame_pointer: bool, user: &[u64]) -> Vec<Place> {
        let (mut places, mut binaries) = (Vec::new(), Vec::new());
        let image = image(by_frame_pointer);
        resolve(why, user, Vec::new(), &image, &mut places, &mut binaries);
        places
    }

    #[test]
    fn addresses_are_those_of_the_file_and_callers_those_of_the_call() {
        assert_eq!(
            places(
                end::COMPLETE,
                false,
                &[0x5000_1234, 0x5000_1300, 0x7000_0010, 0x10]
            ),
            [
                Place::Binary(7, 0x40_1234),
                Place::Binary(7, 0x40_12ff),
                Place::Anonymous(0x7000_000f),
                Place::Unknown(0xf)
            ]
        );
    }

    #[test]
    fn runs_of_python_stand_in_the_frames_of_their_loops() {
        let frame = |n, is_last| Frame {
            place: Some(Place::Python(n, 1)),
            is_last,
        };
        let shim = Frame {
            place: None,
            is_last: true,
        };
        let runs = vec![
            frame(1, false),
            frame(2, false),
            shim,
            frame(3, true),
            frame(4, true),
        ];
        let (mut places, mut binaries) = (Vec::new(), Vec::new());
        let marked = |address: u64| address | RUNS_PYTHON;
        let user = [0x5000_1234, marked(0x5000_1300), 0x5000_1400, marked(0x5000_1500)];
        resolve(
            end::TOO_DEEP,
            &user,
            runs,
            &image(false),
            &mut places,
            &mut binaries,
        );
        assert_eq!(
            places,
            [
                Place::Binary(7, 0x40_1234),
                Place::Python(1, 1),
                Place::Python(2, 1),
                Place::Binary(7, 0x40_12ff),
                Place::Binary(7, 0x40_13ff),
                Place::Python(3, 1),
                Place::Binary(7, 0x40_14ff),
                Place::Python(4, 1),
            ]
        );
    }

    #[test]
    fn without_tables_only_frame_pointers_that_are_there_are_believed() {
        let user = [0x5000_1234, 0x5000_1300, 0x5000_1400];
        assert_eq!(
            places(end::UNKNOWN_PROCESS, false, &user),
            [Place::Binary(7, 0x40_1234)]
        );
        assert_eq!(places(end::UNKNOWN_PROCESS, true, &user).len(), 3);
    }
}
