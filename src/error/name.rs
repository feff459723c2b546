//! Names of layers, and durations in one word.

use std::{fmt, sync::Arc};

/// What a layer is called in errors, spans and events.
///
/// A layer that was given none is called by what it is, such as `timeout`.
#[derive(Clone)]
pub struct Name(
    // One word, and not the two of an `Arc<str>`: every result that passes through a stack has room
    // for a rejection, and is moved once for each layer.
    Arc<Box<str>>,
);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(Arc::new(name.into()))
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(Arc::new(name.into()))
    }
}

impl From<Arc<str>> for Name {
    fn from(name: Arc<str>) -> Self {
        Self::from(&*name)
    }
}

/// The name that a layer was given, or else what it is.
#[inline]
pub(crate) fn name_or<'a>(name: &'a Option<Name>, default: &'static str) -> &'a str {
    name.as_ref().map_or(default, Name::as_str)
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
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
