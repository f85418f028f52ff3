//! A prefix of addresses, IPv4 as a part of IPv6.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A prefix such as `10.1.0.0/16`, `2001:db8::/32` or a single address; `::ffff:10.1.0.0/112` is `10.1.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    bits: u128,
    prefix_len: u8,
}

impl Cidr {
    /// From an IPv6 address (IPv4 mapped) and a length of at most 128; bits beyond the length are cleared.
    pub fn new(bits: u128, prefix_len: u8) -> Self {
        let prefix_len = prefix_len.min(128);
        Self {
            bits: Self::mask(bits, prefix_len),
            prefix_len,
        }
    }

    /// The address, IPv4 mapped.
    pub fn bits(self) -> u128 {
        self.bits
    }

    /// Bits that count, 0–128.
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The first `prefix_len` bits.
    pub fn mask(bits: u128, prefix_len: u8) -> u128 {
        bits & u128::MAX
            .checked_shl(128 - u32::from(prefix_len.min(128)))
            .unwrap_or(0)
    }
}

impl From<IpAddr> for Cidr {
    /// A single address.
    fn from(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self::new(address.to_bits(), 128)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected an address or a prefix such as 10.0.0.0/8 or 2001:db8::/32".to_owned();
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok().ok_or_else(wrong)?;
        let bits = Self::from(address).bits;
        let base = if address.is_ipv4() { 96 } else { 0 };
        let length = match length {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                let length: u8 = digits.parse().ok().ok_or_else(wrong)?;
                length.checked_add(base).filter(|l| *l <= 128).ok_or_else(|| {
                    format!(
                        "a prefix of {} has 0 to {} bits",
                        if base == 0 { "IPv6" } else { "IPv4" },
                        128 - base
                    )
                })?
            }
            Some(_) => return Err(wrong()),
            None => 128,
        };
        let cidr = Self::new(bits, length);
        if cidr.bits != bits {
            return Err(format!(
                "the address has bits beyond its prefix; {cidr} is meant?"
            ));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(v4) if self.prefix_len >= 96 => write!(f, "{v4}/{}", self.prefix_len - 96),
            _ => write!(f, "{address}/{}", self.prefix_len),
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|e: String| D::Error::custom(format_args!("{e}, found {text:?}")))
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A prefix such as `10.1.0.0/16` or `2001:db8::/32`." })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_parse_and_print() {
        for (text, printed) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn mistakes_are_told() {
        let error = |text: &str| text.parse::<Cidr>().unwrap_err();
        for text in [
            "",
            "/",
            "x",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/x",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.0/999",
            "010.0.0.0/8",
        ] {
            assert!(
                error(text).starts_with("expected an address or a prefix"),
                "{text}"
            );
        }
        assert_eq!(error("10.0.0.0/33"), "a prefix of IPv4 has 0 to 32 bits");
        assert_eq!(error("10.0.0.0/255"), "a prefix of IPv4 has 0 to 32 bits");
        assert_eq!(error("::/129"), "a prefix of IPv6 has 0 to 128 bits");
        assert_eq!(
            error("10.1.2.3/8"),
            "the address has bits beyond its prefix; 10.0.0.0/8 is meant?"
        );
        assert_eq!(
            error("2001:db8::1/32"),
            "the address has bits beyond its prefix; 2001:db8::/32 is meant?"
        );
    }
}
