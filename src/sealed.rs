//! The seal of traits that users can name but not implement.

/// A marker that only this crate can implement.
#[expect(unnameable_types, reason = "whoever cannot name it cannot implement it")]
pub trait Sealed {}
