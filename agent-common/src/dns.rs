//! Probe `dns`: reading messages, and what is remembered and counted of them.
//!
//! Source: RFC 1035, 4.1 and 4.2.2 (TCP), RFC 6895 (rcodes). Every read is checked by [`Packet::load`]; nothing here can
//! panic, and the loops are bounded.

use crate::tcp::SubjectKey;
use crate::tunnel::parse::Packet;
use crate::wire::Header as Record;

pub mod stream;

/// The port of DNS, over UDP and TCP.
pub const PORT: u16 = 53;
/// Bytes of a message's header.
pub const HEADER: u32 = 12;
/// Bytes of a question that a record carries, a power of two: names of up to 252 bytes, where 255 is the longest.
pub const QUESTION: usize = 256;

/// Index of a transport in [`DnsCounters`].
pub mod transport {
    /// UDP.
    pub const UDP: usize = 0;
    /// TCP.
    pub const TCP: usize = 1;
    /// Number of transports.
    pub const COUNT: usize = 2;
    /// Their names.
    pub const NAMES: [&str; COUNT] = ["udp", "tcp"];
}

crate::wire! {
    /// A query that waits for its answer: by socket, server and the id that the client chose.
    pub struct DnsPendingKey {
        /// Cookie of the client's socket.
        pub cookie: u64,
        /// The server's address, IPv4 mapped.
        pub server: [u8; 16],
        /// The message's id.
        pub id: u16,
        /// Always zero.
        pub pad: [u8; 6],
    }

    /// What is remembered of it.
    pub struct DnsPending {
        /// When it was first sent, ns since boot.
        pub time: u64,
        /// Who asks.
        pub subject: SubjectKey,
    }

    /// Who asks whom.
    pub struct DnsServerKey {
        /// Who asks.
        pub subject: SubjectKey,
        /// The server's address, IPv4 mapped.
        pub server: [u8; 16],
    }

    /// What is counted of that.
    pub struct DnsCounters {
        /// Queries sent, by [`transport`].
        pub queries: [u64; transport::COUNT],
        /// Of these, how many were sent again while the first one still waited.
        pub repeated: u64,
        /// Answers that say that they were cut.
        pub truncated: u64,
        /// Name of the process that asks, where the subject is one.
        pub comm: [u8; 16],
    }

    /// Answers that are timed together.
    pub struct DnsAnswerKey {
        /// Who asked whom.
        pub pair: DnsServerKey,
        /// The answer's code, 0–15.
        pub rcode: u8,
        /// Always zero.
        pub pad: [u8; 7],
    }

    /// One question, told for its name.
    pub struct DnsRecord {
        /// Record header.
        pub header: Record,
        /// Bytes of `question` that are of the message.
        pub len: u64,
        /// The question section, from its first byte.
        pub question: [u8; QUESTION],
    }
}

impl DnsServerKey {
    /// The key of the row that takes what finds no room.
    pub const NOBODY: Self = Self {
        subject: SubjectKey::NOBODY,
        server: [0; 16],
    };
}

impl DnsAnswerKey {
    /// What finds no room.
    pub const NOBODY: Self = Self {
        pair: DnsServerKey::NOBODY,
        rcode: 0,
        pad: [0; 7],
    };
}

/// The header of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Chosen by who asks.
    pub id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
}

impl Header {
    /// At this offset; `None` if the packet ends before.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P, at: u32) -> Option<Self> {
        let h = packet.load::<8>(at)?;
        let pair = |high: u8, low: u8| (high as u16) << 8 | low as u16;
        // The other two counts must be there, whatever they say.
        packet.load::<4>(at + 8)?;
        Some(Self {
            id: pair(h[0], h[1]),
            flags: pair(h[2], h[3]),
            questions: pair(h[4], h[5]),
            answers: pair(h[6], h[7]),
        })
    }

    /// Opcodes above DSO (6) are not assigned.
    #[inline(always)]
    fn assigned(&self) -> bool {
        (self.flags >> 11 & 15) <= 6
    }

    /// A query over TCP: one that brings no answers, as a query among other bytes is recognised.
    #[inline(always)]
    pub fn is_plain_query(&self) -> bool {
        self.is_query() && self.answers == 0
    }

    /// A query with its one question.
    #[inline(always)]
    pub fn is_query(&self) -> bool {
        self.flags >> 15 == 0 && self.assigned() && self.questions == 1
    }

    /// An answer; one that refuses may leave the question out.
    #[inline(always)]
    pub fn is_answer(&self) -> bool {
        self.flags >> 15 == 1 && self.assigned() && self.questions <= 1
    }

    /// The answer was cut: ask again over TCP.
    #[inline(always)]
    pub fn truncated(&self) -> bool {
        self.flags >> 9 & 1 == 1
    }

    /// 0–15; what EDNS adds to it lies in the additional section and is not read.
    #[inline(always)]
    pub fn rcode(&self) -> u8 {
        (self.flags & 15) as u8
    }
}

/// Name of an rcode; `None` where none is assigned.
pub const fn rcode_name(rcode: u8) -> Option<&'static str> {
    Some(match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        _ => return None,
    })
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name as text, lower case, without the final dot; bytes that are no letter, digit, `-`, `_` or `*` are `?`.
    name: [u8; 255],
    len: usize,
    /// Type of record.
    pub qtype: u16,
}

impl Question {
    /// The question in the bytes of its section. `None`: it is cut, too long, or has a pointer, which a question cannot.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut out = Self {
            name: [0; 255],
            len: 0,
            qtype: 0,
        };
        let mut at = 0;
        loop {
            let length = *bytes.get(at)? as usize;
            at += 1;
            if length == 0 {
                break;
            }
            // RFC 1035, 2.3.4: labels of 63 bytes, names of 255 with their lengths.
            if length > 63 || at + length > 254 {
                return None;
            }
            if out.len > 0 {
                out.push(b'.')?;
            }
            for &byte in bytes.get(at..at + length)? {
                out.push(match byte {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'*' => byte,
                    b'A'..=b'Z' => byte.to_ascii_lowercase(),
                    _ => b'?',
                })?;
            }
            at += length;
        }
        let &[high, low, _, _] = bytes.get(at..at + 4)? else {
            return None;
        };
        out.qtype = (high as u16) << 8 | low as u16;
        Some(out)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.name.get_mut(self.len)? = byte;
        self.len += 1;
        Some(())
    }

    /// The name; `.` for the root.
    pub fn name(&self) -> &str {
        match self.name.get(..self.len).map(core::str::from_utf8) {
            Some(Ok(name)) if !name.is_empty() => name,
            _ => ".",
        }
    }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
