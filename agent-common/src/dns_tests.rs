//! Messages as they are, cut at every byte, and mutated.

extern crate std;
use super::stream::{Segment, Step, Stream};
use super::*;
use crate::tunnel::parse::Bytes;
use crate::udp::{Head, TCP, UDP, head, mapped};
use std::vec::Vec;

/// `www.Example.test AAAA`, id 0x1234.
fn query() -> Vec<u8> {
    let mut out = std::vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    out.extend(b"\x03www\x07Example\x04test\0\0\x1c\0\x01");
    out
}

fn answer(flags: u16) -> Vec<u8> {
    let mut out = query();
    out.splice(2..4, (0x8000 | flags).to_be_bytes());
    out
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u16).to_be_bytes().to_vec();
    out.extend(message);
    out
}

#[test]
fn a_query_and_its_answers() {
    let q = Header::read(&Bytes::new(&query()), 0).unwrap();
    assert!(q.is_query() && !q.is_answer());
    assert_eq!(q.id, 0x1234);
    for (flags, rcode, truncated) in [(0x180, 0, false), (0x183, 3, false), (0x202, 2, true)] {
        let a = Header::read(&Bytes::new(&answer(flags)), 0).unwrap();
        assert!(a.is_answer() && !a.is_query());
        assert_eq!((a.rcode(), a.truncated()), (rcode, truncated));
    }
}

#[test]
fn what_is_no_message() {
    let with = |at: usize, value: u8| {
        let mut out = query();
        out[at] = value;
        out
    };
    // Two questions; none; an opcode that does not exist.
    for odd in [with(5, 2), with(5, 0), with(2, 0x38)] {
        assert!(!Header::read(&Bytes::new(&odd), 0).unwrap().is_query());
    }
    for len in 0..HEADER as usize {
        assert_eq!(Header::read(&Bytes::new(&query()[..len]), 0), None);
    }
    assert_eq!(Header::read(&Bytes::new(&query()), u32::MAX - 16), None);
}

#[test]
fn names_are_read_as_text() {
    let question = Question::read(&query()[12..]).unwrap();
    assert_eq!((question.name(), question.qtype), ("www.example.test", 28));
    assert_eq!(Question::read(b"\0\0\x02\0\x01").unwrap().name(), ".");
    let odd = Question::read(b"\x04a\x1b\"\xff\0\0\x01\0\x01").unwrap();
    assert_eq!(odd.name(), "a???");
    // A pointer, a label that is cut, no type.
    for bad in [
        b"\xc0\x0c\0\x01\0\x01".as_slice(),
        b"\x05abc",
        b"\x01a\0\0\x01",
        b"",
    ] {
        assert_eq!(Question::read(bad), None);
    }
    let label = |n: u8| std::iter::once(n).chain(std::iter::repeat_n(b'x', n as usize));
    let longest: Vec<u8> = label(63)
        .chain(label(63))
        .chain(label(63))
        .chain(label(61))
        .chain([0, 0, 1, 0, 1])
        .collect();
    assert_eq!(longest.len(), 255 + 4);
    assert_eq!(Question::read(&longest).unwrap().name().len(), 253);
    let longer: Vec<u8> = label(63)
        .chain(label(63))
        .chain(label(63))
        .chain(label(62))
        .chain([0, 0, 1, 0, 1])
        .collect();
    assert_eq!(Question::read(&longer), None);
}

fn ipv6(extensions: &[u8], next: u8) -> Vec<u8> {
    let mut out = std::vec![0x60, 0, 0, 0, 0, 0, next, 64];
    out.extend([1; 16]);
    out.extend([2; 16]);
    out.extend(extensions);
    out
}

#[test]
fn headers_of_both_families() {
    let mut v4 = std::vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    v4.extend([0; 4]);
    assert_eq!(
        head(&Bytes::new(&v4)),
        Some(Head {
            protocol: UDP,
            transport: 24,
            source: mapped([10, 0, 0, 1]),
            destination: mapped([10, 0, 0, 2]),
        })
    );
    v4[0] = 0x44;
    assert_eq!(head(&Bytes::new(&v4)), None, "a header of 16 bytes");
    let plain = head(&Bytes::new(&ipv6(&[], TCP))).unwrap();
    assert_eq!(
        (plain.protocol, plain.transport, plain.destination),
        (TCP, 40, [2; 16])
    );
    // Hop-by-hop of 8 bytes, destination options of 16.
    let mut extensions = [0; 24];
    extensions[0] = 60;
    extensions[8] = UDP;
    extensions[9] = 1;
    let far = head(&Bytes::new(&ipv6(&extensions, 0))).unwrap();
    assert_eq!((far.protocol, far.transport), (UDP, 64));
    // A chain that never ends is given up, one that is cut is no packet.
    let endless = head(&Bytes::new(&ipv6(&[0; 400], 0))).unwrap();
    assert_eq!(endless.protocol, 0);
    assert_eq!(head(&Bytes::new(&ipv6(&[], 0))), None);
    assert_eq!(head(&Bytes::new(&[0x50; 60])), None);
}

/// Whatever the bytes are, nothing panics, no offset lies outside, and a name is a name.
fn sane(bytes: &[u8]) {
    if let Some(h) = head(&Bytes::new(bytes)) {
        assert!((20..=40 + 4 * 2048).contains(&h.transport));
    }
    let segment = Segment {
        sequence: 7,
        at: 0,
        end: bytes.len() as u32,
    };
    let mut stream = Stream::default();
    stream.begin(7);
    for steps in 0.. {
        assert!(steps <= bytes.len());
        match stream.step(&Bytes::new(bytes), &segment) {
            Step::Message(header, question) => {
                assert!(question as usize <= bytes.len() + 4);
                assert!(header.rcode() < 16);
            }
            Step::More => {}
            Step::End | Step::Nonsense => break,
        }
    }
    if let Some(question) = Question::read(bytes) {
        assert!((1..=253).contains(&question.name().len()));
        assert!(question.name().bytes().all(|b| b.is_ascii_graphic()));
    }
}

#[test]
fn cut_and_mutated_messages_are_survived() {
    let mut seeds = std::vec![
        query(),
        answer(0x183),
        framed(&query()),
        framed(&answer(0x200)),
        query()[12..].to_vec(),
        ipv6(&[0; 32], 0),
        ipv6(&query(), UDP),
    ];
    seeds.push(Vec::new());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut names = 0;
    for seed in &seeds {
        for len in 0..=seed.len() {
            sane(&seed[..len]);
        }
        for _ in 0..40_000 {
            let mut bytes = seed.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % bytes.len().max(1);
                match random() % 3 {
                    0 if !bytes.is_empty() => bytes[at] = random() as u8,
                    1 if !bytes.is_empty() => {
                        bytes.remove(at);
                    }
                    _ => bytes.insert(at.min(bytes.len()), random() as u8),
                }
            }
            sane(&bytes);
            names += usize::from(Question::read(&bytes).is_some());
        }
    }
    assert!(names > 1000, "the mutations leave something to read");
}
