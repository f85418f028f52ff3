use super::*;
use crate::record::format::{bytes, varint};

/// Cause: a file that unpacks to more than any agent knows. Seen: it is damage, before the memory is full.
#[test]
fn a_file_that_says_too_much_is_damaged() {
    let past = Past::new();
    let huge = vec![b' '; 4 << 20];
    let mut told = 0;
    let failed = (0..64).find_map(|i| {
        let mut frames = vec![tag::FACT];
        bytes(&mut frames, format!("fact {}", i % 40).as_bytes());
        bytes(&mut frames, &huge);
        told += 1;
        past.advance(&mut Reader(&frames)).err()
    });
    assert_eq!((failed, told), (Some(tag::FACT), 16));
    // One that is told again takes the place of what it was.
    let past = Past::new();
    for _ in 0..64 {
        let mut frames = vec![tag::FACT];
        bytes(&mut frames, b"fact");
        bytes(&mut frames, &huge);
        assert_eq!(past.advance(&mut Reader(&frames)), Ok(None));
    }
}

/// Cause: a file that takes out rows of maps that there are not, has names as long as itself, or begins anew again and again.
/// Seen: nothing of it is kept, or it is damage.
#[test]
fn what_no_agent_says_is_not_kept() {
    let step = |frames: &mut Vec<u8>| {
        frames.push(tag::STEP);
        [Step::Tick.number(), 0, 0, 0]
            .iter()
            .for_each(|number| varint(frames, *number));
    };
    let (past, mut frames) = (Past::new(), Vec::new());
    for key in [&b"one"[..], b"two"] {
        frames.push(tag::REMOVED);
        bytes(&mut frames, b"NOWHERE");
        bytes(&mut frames, key);
    }
    step(&mut frames);
    step(&mut frames);
    let mut reader = Reader(&frames);
    while past.advance(&mut reader).unwrap().is_some() {}
    assert!(past.vanished("NOWHERE").is_empty());
    assert_eq!(past.state().held, 0);
    for length in [LONGEST_NAME, LONGEST_NAME + 1] {
        let mut frames = vec![tag::ARRAY];
        varint(&mut frames, 0);
        bytes(&mut frames, &vec![b'x'; length]);
        varint(&mut frames, 8);
        let read = Past::new().advance(&mut Reader(&frames));
        assert_eq!(read.is_ok(), length == LONGEST_NAME, "{length}");
    }
    let reset = [tag::RESET, 0];
    let past = Past::new();
    assert_eq!(past.advance(&mut Reader(&reset)), Ok(None));
    assert_eq!(past.advance(&mut Reader(&reset)), Err(tag::RESET));
    // What was removed, chunk after chunk without a step, is counted.
    let past = Past::new();
    let failed = (0..1 << 17).find_map(|key| {
        let mut frames = vec![tag::REMOVED];
        bytes(&mut frames, b"MAP");
        bytes(&mut frames, format!("{key:01024}").as_bytes());
        past.advance(&mut Reader(&frames)).err()
    });
    assert_eq!(failed, Some(tag::REMOVED));
}

#[test]
fn ticks_that_are_not_there_are_counted() {
    let mut frames = Vec::new();
    // Of six ticks the first and the fifth are there.
    for so_far in [4, 6] {
        frames.push(tag::STEP);
        [Step::Tick.number(), 0, 0, 0]
            .iter()
            .for_each(|number| varint(&mut frames, *number));
        frames.push(tag::RESET);
        varint(&mut frames, so_far);
    }
    let (past, mut reader) = (Past::new(), Reader(&frames));
    while past.advance(&mut reader).unwrap().is_some() {}
    assert_eq!(past.missing(), 4);
}
