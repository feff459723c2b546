//! Panics of redb, which it raises for some damaged files.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a function, and returns a panic as an error.
///
/// The caller must not use again what the function may have left half changed.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(message), _) => message,
            (_, Some(message)) => message.as_str(),
            _ => "without a message",
        };
        redb::Error::Corrupted(format!("a panic while reading or writing: {message}"))
    })
}
