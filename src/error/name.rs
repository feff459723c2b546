//! Names of layers.

use std::{fmt, sync::Arc};

/// The name of a layer in errors, spans and events.
///
/// Default: the kind of the layer, such as `timeout`.
#[derive(Clone)]
pub struct Name(
    // One word instead of the two of an `Arc<str>`. Every result that passes through a stack has
    // room for a rejection, and each layer moves it once.
    Arc<Parts>,
);

struct Parts {
    name: Box<str>,
    /// The described key of a layer by key. It is no part of the name, which may label a metric.
    key: Option<Box<str>>,
}

impl Name {
    /// Returns the name as a string slice.
    pub fn as_str(&self) -> &str {
        &self.0.name
    }

    /// Returns the name with the description of a key.
    pub(crate) fn with_key(name: &str, key: String) -> Self {
        Self(Arc::new(Parts { name: name.into(), key: Some(key.into()) }))
    }

    /// Returns the description of the key, if there is one.
    pub(crate) fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self::from(name.to_owned())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(Arc::new(Parts { name: name.into(), key: None }))
    }
}

impl From<Arc<str>> for Name {
    fn from(name: Arc<str>) -> Self {
        Self::from(&*name)
    }
}

/// Returns the name that was set for a layer, or `default`.
#[inline]
pub(crate) fn name_or<'a>(name: &'a Option<Name>, default: &'static str) -> &'a str {
    name.as_ref().map_or(default, Name::as_str)
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        (self.as_str(), self.key()) == (other.as_str(), other.key())
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
