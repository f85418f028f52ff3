//! The numbers on their way out: pulled by Prometheus, pushed by OTLP and remote write.

pub mod duration;
pub mod otlp;
pub mod prometheus;
pub mod push;
pub mod remote_write;
pub mod secret;
pub mod spare;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod testing_tls;
