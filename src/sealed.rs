//! The seal of traits that users name but do not implement.

/// Can only be implemented within this crate.
#[expect(unnameable_types, reason = "whoever cannot name it cannot implement it")]
pub trait Sealed {}
