//! Profiles as pprof has them: as much of profile.proto as is looked at, written down from its specification.
#![expect(
    missing_docs,
    reason = "fields have the names of profile.proto, which documents them"
)]

use super::agent::Scratch;
use anyhow::{Result, ensure};
use prost::Message as _;
use std::process::Command;

/// `perftools.profiles.Profile`.
#[derive(prost::Message)]
pub struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<Pair>,
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Pair>,
    #[prost(string, repeated, tag = "6")]
    pub strings: Vec<String>,
    #[prost(int64, tag = "9")]
    pub time: i64,
    #[prost(int64, tag = "10")]
    pub duration: i64,
}

/// The first two numbers of a message: type and unit, id and name, a line's function.
#[derive(prost::Message)]
pub struct Pair {
    #[prost(int64, tag = "1")]
    pub first: i64,
    #[prost(int64, tag = "2")]
    pub second: i64,
}

#[derive(prost::Message)]
pub struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
}

#[derive(prost::Message)]
pub struct Mapping {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub start: u64,
    #[prost(uint64, tag = "3")]
    pub limit: u64,
    #[prost(int64, tag = "5")]
    pub filename: i64,
    #[prost(int64, tag = "6")]
    pub build_id: i64,
}

#[derive(prost::Message)]
pub struct Location {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub mapping: u64,
    #[prost(uint64, tag = "3")]
    pub address: u64,
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Pair>,
}

/// Reads a profile, which is gzipped.
pub fn unpacked(scratch: &Scratch, bytes: &[u8]) -> Result<Profile> {
    let file = scratch.write("unpack.gz", bytes)?;
    let plain = Command::new("gzip").arg("-dc").arg(file).output()?;
    ensure!(
        plain.status.success(),
        "gzip: {}",
        String::from_utf8_lossy(&plain.stderr)
    );
    Ok(Profile::decode(plain.stdout.as_slice())?)
}
