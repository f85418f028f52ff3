//! Spans of TCP connections: which connections are told, and by what ids.
//!
//! Both ends of a connection know two numbers that hardly any other has: the initial sequence numbers (RFC 6528: 32 bits
//! each that nobody can guess). The id of the trace is made of them, so that two agents that have never heard of each other,
//! on either side of a NAT, tell the two ends as one trace, and, where chance decides, both tell it or none does.

/// Why a connection is told as a span.
pub mod why {
    /// It is not.
    pub const NOT: u32 = 0;
    /// By chance: the id of the trace is not below the threshold (but of attempts that nobody answered, which have no other end).
    pub const CHANCE: u32 = 1;
    /// It ended with an error.
    pub const ERROR: u32 = 2;
    /// Its handshake or one of its round trips took too long.
    pub const SLOW: u32 = 3;
    /// Their names.
    pub const NAMES: [&str; 4] = ["not", "chance", "error", "slow"];
}

/// Flags of `switch::TRACES`.
pub mod flag {
    /// Spans are wanted.
    pub const ON: u64 = 1;
    /// Those of connections that end with an error in any case.
    pub const ERRORS: u64 = 2;
}

/// The threshold that nothing reaches: the random part of an id has 56 bits (W3C Trace Context, level 2).
pub const NEVER: u64 = 1 << 56;

/// SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012) of eight bytes, with a key that everybody has: who sees an id cannot
/// tell the sequence numbers that it is made of, by which he could meddle with the connection. The first half is made first.
#[inline(always)]
const fn sip(seed: u64) -> [u64; 4] {
    let mut v = [
        0x736f_6d65_7073_6575,
        0x646f_7261_6e64_6f6d ^ 0xee,
        0x6c79_6765_6e65_7261,
        0x7465_6462_7974_6573,
    ];
    v[3] ^= seed;
    v = round(round(v));
    v[0] ^= seed;
    // The length, in the last byte.
    v[3] ^= 8 << 56;
    v = round(round(v));
    v[0] ^= 8 << 56;
    v[2] ^= 0xee;
    round(round(round(round(v))))
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[inline(always)]
const fn folded([a, b, c, d]: [u64; 4]) -> u64 {
    a ^ b ^ c ^ d
}

/// What the ids of a connection are made of: the initial sequence numbers of who opened it and of who was asked.
#[inline(always)]
pub const fn seed(client: u32, server: u32) -> u64 {
    (client as u64) << 32 | server as u64
}

/// The lower half of the id of the trace.
#[inline(always)]
const fn lower(seed: u64) -> u64 {
    folded(sip(seed))
}

/// Whether chance tells a connection: the random part of its id is not below the threshold, as OpenTelemetry's consistent
/// sampling has it, so that samplers further on choose among the same.
#[inline(always)]
pub const fn is_chosen(seed: u64, threshold: u64) -> bool {
    lower(seed) & (NEVER - 1) >= threshold
}

/// The threshold that lets this share of all ids pass, 0 to 1.
#[cfg(feature = "user")]
pub fn threshold(share: f64) -> u64 {
    NEVER - (share.clamp(0.0, 1.0) * NEVER as f64) as u64
}

/// Id of the trace.
pub const fn trace_id(seed: u64) -> u128 {
    let [a, b, c, d] = sip(seed);
    let upper = folded(round(round(round(round([a, b ^ 0xdd, c, d])))));
    let id = (upper as u128) << 64 | lower(seed) as u128;
    // Zero is no id.
    if id == 0 { 1 } else { id }
}

/// Id of the span of one end; `role` is an index into `tcp::ROLES`.
pub const fn span_id(seed: u64, role: u8) -> u64 {
    let id = lower(seed ^ trace_id(seed) as u64 ^ (1 + role as u64));
    if id == 0 { 1 } else { id }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    extern crate std;

    use super::*;
    use std::collections::HashSet;

    #[test]
    fn chance_lets_its_share_pass_and_is_the_same_at_both_ends() {
        for share in [0.0, 0.01, 0.5, 1.0] {
            let threshold = threshold(share);
            // Sequence numbers that follow one another are the worst case.
            let chosen = (0..100_000u32)
                .filter(|n| is_chosen(seed(*n, 7), threshold))
                .count() as f64;
            assert!((chosen - share * 1e5).abs() < 500.0, "{share}: {chosen}");
        }
    }

    #[test]
    fn it_is_siphash_with_a_key_of_zeros() {
        for seed in (0..1000).map(|n| seed(n * 7919, n ^ 0xabcd)) {
            let hashed = siphasher::sip128::SipHasher24::new().hash(&seed.to_le_bytes());
            assert_eq!(trace_id(seed), hashed.as_u128());
        }
    }

    #[test]
    fn ids_differ_and_are_never_zero() {
        let mut traces = HashSet::new();
        let mut spans = HashSet::new();
        for n in 0..10_000 {
            for seed in [seed(n, 1), seed(1, n + 2)] {
                assert!(traces.insert(trace_id(seed)));
                assert!(spans.insert(span_id(seed, 0)) && spans.insert(span_id(seed, 1)));
            }
        }
        assert!(trace_id(0) != 0 && !traces.contains(&0) && !spans.contains(&0));
        // Whoever filters by it further on looks at the last seven bytes.
        let id = trace_id(seed(1, 2));
        assert!(
            is_chosen(seed(1, 2), id as u64 & (NEVER - 1))
                && !is_chosen(seed(1, 2), (id as u64 & (NEVER - 1)) + 1)
        );
    }
}
