//! Fallbacks, which give a response when the service cannot.

pub use crate::call::degraded::Reason;
