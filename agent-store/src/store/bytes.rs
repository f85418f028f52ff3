//! Numbers and strings in bytes: little endian, varints as LEB128, signed ones in zigzag. Reading past the end or a malformed
//! number is `None`; it never panics, because a file can hold anything.

use crate::labels::Labels;

pub(super) fn put_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(super) fn put_str(out: &mut Vec<u8>, value: &str) {
    put_uint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

pub(super) fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_uint(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_str(out, name);
        put_str(out, value);
    }
}

/// Reads what the functions above wrote.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, tail) = self.rest.split_first()?;
        self.rest = tail;
        Some(*first)
    }

    pub(super) fn uint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn size(&mut self) -> Option<usize> {
        usize::try_from(self.uint()?).ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.uint()?).ok()
    }

    pub(super) fn int(&mut self) -> Option<i64> {
        let raw = self.uint()?;
        Some(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    pub(super) fn f64(&mut self) -> Option<f64> {
        let bits = self.bytes(8)?.try_into().ok()?;
        Some(f64::from_bits(u64::from_le_bytes(bits)))
    }

    pub(super) fn str(&mut self) -> Option<&'a str> {
        let n = self.size()?;
        std::str::from_utf8(self.bytes(n)?).ok()
    }

    pub(super) fn labels(&mut self) -> Option<Labels> {
        let n = self.size()?;
        let mut pairs = Vec::with_capacity(n.min(64));
        for _ in 0..n {
            pairs.push((self.str()?, self.str()?));
        }
        Some(Labels::new(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_a_cut_is_none() {
        let mut out = Vec::new();
        for value in [0, 1, 127, 128, u64::MAX] {
            put_uint(&mut out, value);
        }
        for value in [0, -1, 63, i64::MIN, i64::MAX] {
            put_int(&mut out, value);
        }
        put_str(&mut out, "é");
        let mut reader = Reader::new(&out);
        assert_eq!(
            [(); 5].map(|()| reader.uint().unwrap()),
            [0, 1, 127, 128, u64::MAX]
        );
        assert_eq!(
            [(); 5].map(|()| reader.int().unwrap()),
            [0, -1, 63, i64::MIN, i64::MAX]
        );
        assert_eq!(reader.str(), Some("é"));
        assert!(reader.is_empty() && reader.uint().is_none());
        assert_eq!(Reader::new(&[2, 0xc3]).str(), None);
        assert_eq!(Reader::new(&[0x80; 11]).uint(), None);
    }
}
