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
/// Instead of a line: there is none.
const NO_LINE: u32 = u32::MAX;

/// Which line each instruction is of. The table can only be gone through from its start: that is done once, and not for every
/// frame of every sample.
#[derive(Debug)]
pub struct Lines {
    first: u32,
    /// Where instructions of one line end, by their index in code units, and the line.
    runs: Box<[(u32, u32)]>,
}

impl Lines {
    /// What a table says of a function that begins at a line. What is behind something without sense is not believed.
    pub fn new(table: &[u8], first: u32) -> Self {
        let (mut bytes, mut runs) = (table.iter().copied(), Vec::<(u32, u32)>::new());
        let (mut line, mut at) = (i64::from(first), 0);
        while let Some((own, units)) = entry(&mut bytes, &mut line) {
            at += units;
            match runs.last_mut() {
                Some(last) if last.1 == own => last.0 = at,
                _ => runs.push((at, own)),
            }
        }
        Self {
            first,
            runs: runs.into(),
        }
    }

    /// The line of an instruction; the function's first, if it has none of its own.
    pub fn of(&self, index: u32) -> u32 {
        let at = self.runs.partition_point(|(end, _)| *end <= index);
        match self.runs.get(at) {
            Some((_, line)) if *line != NO_LINE => *line,
            _ => self.first,
        }
    }

    /// Bytes that they take.
    pub fn size(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.runs)
    }
}

/// Takes one entry: its line and how many code units it is of; `None` = there is none, or it makes no sense.
fn entry(bytes: &mut impl Iterator<Item = u8>, line: &mut i64) -> Option<(u32, u32)> {
    let head = bytes.next().filter(|head| head & 0x80 != 0)?;
    let code = head >> 3 & 15;
    match code {
        NONE => {}
        LONG => {
            *line = line.checked_add(signed(bytes)?)?;
            for _ in 0..3 {
                number(bytes)?;
            }
        }
        NO_COLUMNS => *line = line.checked_add(signed(bytes)?)?,
        ONE_LINE..NO_COLUMNS => {
            *line = line.checked_add(i64::from(code - ONE_LINE))?;
            bytes.nth(1)?;
        }
        _ => {
            bytes.next()?;
        }
    }
    let own = u32::try_from(*line).unwrap_or(NO_LINE);
    Some((if code == NONE { NO_LINE } else { own }, u32::from(head & 7) + 1))
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
        let lines = Lines::new(TABLE, 3);
        for (start, end, expected) in told {
            for index in start / 2..end / 2 {
                assert_eq!(lines.of(index), expected.unwrap_or(3), "unit {index}");
            }
        }
    }

    #[test]
    fn a_table_without_sense_has_no_lines() {
        let line = |table: &[u8]| Lines::new(table, 7).of(0);
        assert_eq!(line(&[]), 7);
        assert_eq!(line(&[0x00]), 7, "no entry begins so");
        let endless = [
            0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(line(&endless), 7);
        let before_the_first = [0xe8, 0x15];
        assert_eq!(line(&before_the_first), 7, "line -3");
        // As far ahead as it goes, sixteen times, and two lines more.
        let far = [0xe8, 0x7e, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x3f];
        let mut table = far.repeat(16);
        table.extend([0xe0, 0, 0].repeat(1000));
        assert_eq!(line(&table), 7);
        for len in 0..TABLE.len() {
            let lines = Lines::new(&TABLE[..len], u32::MAX);
            for index in 0..80 {
                let _ = lines.of(index);
            }
        }
    }

    #[test]
    fn instructions_of_one_line_are_one_run() {
        let same = [0x80 | ONE_LINE << 3 | 7, 0, 0].repeat(10_000);
        let lines = Lines::new(&same, 7);
        assert_eq!((lines.of(79_999), lines.of(80_000)), (7, 7));
        assert!(lines.size() < 100, "{}", lines.size());
    }
}
