//! A program whose time is known: `geophone-busy SECONDS` spends 70, 20 and 10 % of it on three ways to the same leaf.
//! It is built without frame pointers, as Rust programs are.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Takes about a tenth of a millisecond.
#[inline(never)]
fn busy_leaf(units: u64) -> u64 {
    let mut x = black_box(units);
    for i in 0..units * 100_000 {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
    }
    x
}

/// What is done with the result keeps each call from being a jump.
macro_rules! way {
    ($name:ident, $next:ident) => {
        #[inline(never)]
        fn $name(units: u64) -> u64 {
            let local = black_box([units; 9]);
            $next(units).wrapping_add(black_box(local)[3])
        }
    };
}

way!(busy_seventy, seventy_inner);
way!(seventy_inner, busy_leaf);
way!(busy_twenty, twenty_inner);
way!(twenty_inner, twenty_deeper);
way!(twenty_deeper, busy_leaf);
way!(busy_ten, busy_leaf);

fn main() {
    let seconds: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut sum = 0u64;
    while Instant::now() < end {
        sum = sum
            .wrapping_add(busy_seventy(7))
            .wrapping_add(busy_twenty(2))
            .wrapping_add(busy_ten(1));
    }
    println!("{sum}");
}
