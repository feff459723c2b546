//! The seal of traits that users name but do not implement.

/// Can only be implemented within this crate.
pub trait Sealed {}
