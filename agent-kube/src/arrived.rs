//! An object as it comes: what kube's watch needs of it, and what is kept. All else is passed over while it is parsed, so
//! that the size of what comes is not the size of what is kept.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_core::Resource;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt::Debug;

/// Longest name of Kubernetes: a DNS subdomain.
pub(crate) const LONGEST: usize = 253;
/// Longest UID and container id that are taken.
pub(crate) const LONGEST_ID: usize = 128;

/// Whether there is such a name, and it is not longer than an API server accepts.
pub(crate) fn fits(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest
}

/// What is kept of a kind of object.
pub trait Kept: Clone + Debug + Send + Sized + 'static {
    /// `Pod`.
    const KIND: &'static str;
    /// API group; empty = core.
    const GROUP: &'static str;
    /// `pods`.
    const PLURAL: &'static str;

    /// Reads an object: its resource version, and what is kept; `None` = it does not say who it is, or with names that
    /// no API server accepts.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, Option<Self>), D::Error>;
}

/// An object.
#[derive(Clone, Debug)]
pub struct Arrived<T> {
    meta: ObjectMeta,
    /// What is kept of it.
    pub what: Option<T>,
}

impl<T: Kept> Resource for Arrived<T> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }
    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de, T: Kept> Deserialize<'de> for Arrived<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (version, what) = T::read(deserializer)?;
        let meta = ObjectMeta {
            resource_version: Some(version),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, what })
    }
}
