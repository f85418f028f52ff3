//! Messages in a connection: where each begins, however they are cut into segments (RFC 1035, 4.2.2; RFC 7766, 8).
//!
//! A message comes behind its length. So who knows where one begins knows where the next does, and needs of each only its
//! first bytes: those of a message that is cut there are kept until the next segment. What begins before the agent looks,
//! or has a gap, is followed again from a segment that begins as a message does.

use super::{HEADER, Header};
use crate::tunnel::parse::Packet;

/// Bytes of a message that are looked at: its length, and the header up to the number of answers.
const PREFIX: usize = 10;

/// Where one direction of a connection stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Sequence number of the next byte that matters.
    next: u32,
    /// Bytes in `prefix`.
    have: u32,
    /// The beginning of a message.
    prefix: [u8; 16],
    /// 1 = `next` is known.
    known: u32,
    pad: u32,
}

/// A segment's payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Where it begins in the packet.
    pub at: u32,
    /// Where the packet ends.
    pub end: u32,
}

/// What a step has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The header of a message; at this offset of the packet its question begins, or would.
    Message(Header, u32),
    /// Nothing yet.
    More,
    /// The segment is done.
    End,
    /// This is no message: the stream is lost.
    Nonsense,
}

impl Stream {
    /// A connection begins: its first message is at this sequence number.
    #[inline(always)]
    pub fn begin(&mut self, sequence: u32) {
        self.next = sequence;
        self.have = 0;
        self.known = 1;
    }

    /// Nothing is known from here on.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.known = 0;
    }

    /// Whether it is known where messages begin.
    #[inline(always)]
    pub fn known(&self) -> bool {
        self.known != 0
    }

    /// How far this segment begins behind what has been read (a gap), or before it (negative: it comes again).
    #[inline(always)]
    pub fn ahead(&self, segment: &Segment) -> i32 {
        segment.sequence.wrapping_sub(self.next) as i32
    }

    /// Takes up a stream at a segment that begins as a message of this kind does.
    #[inline(always)]
    pub fn resume<P: Packet>(&mut self, packet: &P, segment: &Segment, answers: bool) -> bool {
        let Some(prefix) = packet.load::<PREFIX>(segment.at) else {
            return false;
        };
        let fits = match header(&prefix) {
            Some(h) if answers => h.is_answer(),
            Some(h) => h.is_plain_query(),
            None => false,
        };
        if fits {
            self.begin(segment.sequence);
        }
        fits
    }

    /// Reads on: a whole beginning of a message, or one byte of one.
    #[inline(always)]
    pub fn step<P: Packet>(&mut self, packet: &P, segment: &Segment) -> Step {
        let offset = self.next.wrapping_sub(segment.sequence);
        // Messages may be longer than segments.
        if offset >= segment.end.wrapping_sub(segment.at) {
            return Step::End;
        }
        let at = segment.at.wrapping_add(offset);
        if self.have == 0
            && at + PREFIX as u32 <= segment.end
            && let Some(prefix) = packet.load::<PREFIX>(at)
        {
            return self.message(&prefix, at + PREFIX as u32, PREFIX as u32);
        }
        let Some([byte]) = packet.load::<1>(at) else {
            return Step::End;
        };
        if let Some(place) = self.prefix.get_mut((self.have & 15) as usize) {
            *place = byte;
        }
        self.have += 1;
        if self.have < PREFIX as u32 {
            self.next = self.next.wrapping_add(1);
            return Step::More;
        }
        let p = self.prefix;
        self.message(
            &[p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]],
            at + 1,
            1,
        )
    }

    /// The beginning is there, and ends at this offset; so many bytes of it are of this segment's rest.
    #[inline(always)]
    fn message(&mut self, prefix: &[u8; PREFIX], at: u32, read: u32) -> Step {
        let Some(header) = header(prefix) else {
            self.lose();
            return Step::Nonsense;
        };
        let length = (prefix[0] as u32) << 8 | prefix[1] as u32;
        // `read` ends at the prefix's end.
        let rest = length + 2 - PREFIX as u32;
        self.next = self.next.wrapping_add(read).wrapping_add(rest);
        self.have = 0;
        Step::Message(header, at + HEADER + 2 - PREFIX as u32)
    }
}

/// The header behind a length; `None` if the length is too short for one.
#[inline(always)]
fn header(p: &[u8; PREFIX]) -> Option<Header> {
    let pair = |high: u8, low: u8| (high as u16) << 8 | low as u16;
    if (pair(p[0], p[1]) as u32) < HEADER {
        return None;
    }
    Some(Header {
        id: pair(p[2], p[3]),
        flags: pair(p[4], p[5]),
        questions: pair(p[6], p[7]),
        answers: pair(p[8], p[9]),
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::tunnel::parse::Bytes;
    use std::vec::Vec;

    /// Messages of several lengths behind each other, each with its id.
    fn stream(ids: core::ops::Range<u16>) -> Vec<u8> {
        ids.flat_map(|id| {
            let mut message = id.to_be_bytes().to_vec();
            message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            message.extend(std::iter::repeat_n(0xff, usize::from(id % 40)));
            let mut out = (message.len() as u16).to_be_bytes().to_vec();
            out.extend(message);
            out
        })
        .collect()
    }

    /// What is read of a segment.
    fn read(stream: &mut Stream, bytes: &[u8], sequence: u32) -> Vec<u16> {
        // Behind headers of 7 bytes.
        let mut packet = std::vec![0; 7];
        packet.extend(bytes);
        let segment = Segment {
            sequence,
            at: 7,
            end: packet.len() as u32,
        };
        let mut out = Vec::new();
        loop {
            match stream.step(&Bytes::new(&packet), &segment) {
                Step::Message(header, question) => {
                    assert!(header.is_query() && question >= 7 && stream.known());
                    out.push(header.id);
                }
                Step::More => {}
                Step::End => return out,
                Step::Nonsense => {
                    assert!(!stream.known());
                    return out;
                }
            }
        }
    }

    #[test]
    fn however_it_is_cut_each_message_is_read_once() {
        let bytes = stream(1..60);
        // Across the end of the numbers as well.
        for first in [1, u32::MAX - 300] {
            for size in 1..bytes.len() {
                let mut stream = Stream::default();
                stream.begin(first);
                let mut ids = Vec::new();
                for (i, part) in bytes.chunks(size).enumerate() {
                    let sequence = first.wrapping_add((i * size) as u32);
                    assert_eq!(
                        stream
                            .ahead(&Segment {
                                sequence,
                                at: 0,
                                end: 0
                            })
                            .max(0),
                        0
                    );
                    ids.extend(read(&mut stream, part, sequence));
                    // It comes again: nothing is read twice.
                    assert_eq!(read(&mut stream, part, sequence), []);
                }
                assert_eq!(ids, (1..60).collect::<Vec<_>>(), "segments of {size}");
            }
        }
    }

    #[test]
    fn a_question_is_where_it_is_said_to_be() {
        let bytes = stream(39..40);
        for cut in 0..PREFIX {
            let mut stream = Stream::default();
            stream.begin(0);
            read(&mut stream, &bytes[..cut], 0);
            let rest = &bytes[cut..];
            let segment = Segment {
                sequence: cut as u32,
                at: 0,
                end: rest.len() as u32,
            };
            loop {
                match stream.step(&Bytes::new(rest), &segment) {
                    Step::Message(_, at) => break assert_eq!(at as usize + cut, 2 + HEADER as usize),
                    step => assert_eq!(step, Step::More),
                }
            }
        }
    }

    #[test]
    fn a_gap_is_seen_and_a_stream_taken_up_again() {
        let bytes = stream(1..4);
        let mut stream = Stream::default();
        stream.begin(100);
        let later = Segment {
            sequence: 101,
            at: 0,
            end: bytes.len() as u32,
        };
        assert_eq!(stream.ahead(&later), 1);
        stream.lose();
        assert!(!stream.resume(&Bytes::new(&bytes[1..]), &later, false));
        assert!(
            !stream.resume(&Bytes::new(&bytes), &later, true),
            "queries are no answers"
        );
        assert!(!stream.resume(&Bytes::new(&bytes[..9]), &later, false));
        assert!(stream.resume(&Bytes::new(&bytes), &later, false) && stream.known());
        assert_eq!(read(&mut stream, &bytes, 101), [1, 2, 3]);
    }

    #[test]
    fn a_length_that_is_none_loses_the_stream() {
        let mut stream = Stream::default();
        stream.begin(0);
        let bytes = [0, 11, 1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(read(&mut stream, &bytes, 0), []);
        assert!(!stream.known());
    }
}
