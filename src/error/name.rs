//! Names of layers.

use std::{fmt, sync::Arc};

/// The name of a layer in errors, spans and events.
///
/// Default: the name of the stack, or the kind of the layer, such as `bulkhead`.
#[derive(Clone)]
pub struct Name(
    // One word instead of the two of an `Arc<str>`. Every result that passes through a stack has
    // room for a rejection, and each layer moves it once.
    Arc<Parts>,
);

struct Parts {
    name: Box<str>,
    /// The described key of a layer by key, or `total` or `attempt` for a timeout. It is no part of
    /// the name, which may label a metric.
    part: Option<Box<str>>,
}

impl Name {
    /// Returns the name as a string slice.
    pub fn as_str(&self) -> &str {
        &self.0.name
    }

    /// Returns the name of a part of a layer.
    pub(crate) fn with_part(name: &str, part: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Parts { name: name.into(), part: Some(part.into()) }))
    }

    /// Returns the part of the layer, if there is one.
    pub(crate) fn part(&self) -> Option<&str> {
        self.0.part.as_deref()
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self::from(name.to_owned())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(Arc::new(Parts { name: name.into(), part: None }))
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
        (self.as_str(), self.part()) == (other.as_str(), other.part())
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part() {
            Some(part) => write!(f, "{:?} ({part:?})", self.as_str()),
            None => fmt::Debug::fmt(self.as_str(), f),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
