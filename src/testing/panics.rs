//! Messages of caught panics.

use std::any::Any;

/// Returns the message of a caught panic.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(message) = payload.downcast_ref::<&str>() {
        message
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message
    } else {
        "a payload that is not a string"
    }
}
