//! The extensions of a response that a cache keeps.

use std::sync::Arc;

use http::Extensions;

/// The extensions that belong to a response itself, such as its URL after redirects.
///
/// A cache keeps no others, because they may belong to one connection or one caller. It is an
/// extension itself.
#[derive(Clone, Debug)]
pub(crate) struct KeptExtensions {
    extensions: Arc<Extensions>,
    bytes: usize,
}

impl KeptExtensions {
    /// Creates them with the bytes of their values.
    #[cfg_attr(not(feature = "reqwest"), allow(dead_code, reason = "other clients have none"))]
    pub(crate) fn new(extensions: Extensions, bytes: usize) -> Self {
        Self { extensions: Arc::new(extensions), bytes }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds them to the extensions of a response.
    pub(crate) fn add_to(&self, extensions: &mut Extensions) {
        extensions.extend(Extensions::clone(&self.extensions));
        extensions.insert(self.clone());
    }
}
