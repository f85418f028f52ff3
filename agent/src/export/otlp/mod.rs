//! OTLP metrics, pushed over gRPC or HTTP.

pub mod encode;
pub mod settings;
pub mod stats;

mod previous;
