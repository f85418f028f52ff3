//! Which line an instruction is of: the table of locations that a code object of Python has since 3.11
//! (Objects/locations.md in CPython's sources).

/// No location.
const NONE: u8 = 15;
/// Lines and columns as numbers of any size.
const LONG: u8 = 14;
/// Only a line.
const NO_COLUMNS: u8 = 13;
/// The next up to [`NO_COLUMNS`]: so many lines further, and two bytes of columns.
const ONE_LINE: u8 = 10;

/// The line of an instruction, by its index in code units; `None` = it has none, or the table makes no sense.
pub fn line(table: &[u8], first: u32, index: u32) -> Option<u32> {
    let mut bytes = table.iter().copied();
    let (mut line, mut at) = (i64::from(first), 0);
    while let Some(head) = bytes.next() {
        let (code, units) = (head >> 3 & 15, u32::from(head & 7) + 1);
        if head & 0x80 == 0 {
            return None;
        }
        match code {
            NONE => {}
            LONG => {
                line = line.checked_add(signed(&mut bytes)?)?;
                for _ in 0..3 {
                    number(&mut bytes)?;
                }
            }
            NO_COLUMNS => line = line.checked_add(signed(&mut bytes)?)?,
            ONE_LINE..NO_COLUMNS => {
                line += i64::from(code - ONE_LINE);
                bytes.nth(1)?;
            }
            _ => {
                bytes.next()?;
            }
        }
        at += units;
        if index < at {
            return u32::try_from(line).ok().filter(|_| code != NONE);
        }
    }
    None
}

/// Six bits a byte, lowest first; the seventh says that there is more.
fn number(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..60).step_by(6) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = number(bytes)?;
    let size = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 1 { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `co_linetable` of a function that Python 3.11.2 has compiled: calls over several lines, `try`, `for`, `with`. What its
    /// `co_lines()` says (bytes, bytes, line) is in lines.txt.
    const TABLE: &[u8] = include_bytes!("lines.bin");

    #[test]
    fn lines_are_those_that_python_tells() {
        let told: Vec<(u32, u32, Option<u32>)> = include_str!("lines.txt")
            .lines()
            .map(|row| {
                let mut words = row.split(' ');
                let mut next = || words.next().unwrap().parse().ok();
                (next().unwrap(), next().unwrap(), next())
            })
            .collect();
        assert!(told.len() > 5);
        for (start, end, expected) in told {
            for index in start / 2..end / 2 {
                assert_eq!(line(TABLE, 3, index), expected, "unit {index}");
            }
        }
    }

    #[test]
    fn a_table_without_sense_has_no_lines() {
        assert_eq!(line(&[], 1, 0), None);
        assert_eq!(line(&[0x00], 1, 0), None, "no entry begins so");
        let endless = [
            0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(line(&endless, 1, 0), None);
        let before_the_first = [0xe8, 0x0b];
        assert_eq!(line(&before_the_first, 1, 0), None, "line -4");
        for len in 0..TABLE.len() {
            for index in 0..80 {
                let _ = line(&TABLE[..len], u32::MAX, index);
            }
        }
    }
}
