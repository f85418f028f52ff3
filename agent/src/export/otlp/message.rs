//! Pieces that the messages of several signals are made of.

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};

/// A text, as a value.
pub(in crate::export::otlp) fn text(text: impl Into<String>) -> Value {
    Value::StringValue(text.into())
}

/// An attribute.
pub(in crate::export::otlp) fn pair(key: impl Into<String>, of: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(of) }),
        ..KeyValue::default()
    }
}

/// Who has measured.
pub(in crate::export::otlp) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "geophone".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}
