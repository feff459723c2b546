//! Rejections by tower's own layers.

use std::{
    error::Error as StdError,
    fmt::{self, Write},
};

use super::{
    reasons::{Elapsed, LoadShed},
    rejection::Rejection,
};

static LOAD_SHED: Rejection = Rejection::LoadShed(LoadShed::unnamed());
static ELAPSED: Rejection = Rejection::Elapsed(Elapsed::unnamed());

/// Returns the rejection that an error of tower's `LoadShed` or `Timeout` stands for.
///
/// This crate does not depend on tower, so it recognises the errors by their texts. They have no
/// data. No other error without data has the same type name and the same message.
///
/// The causes of an error are not inspected. A connection that timed out also has an `Elapsed`
/// among its causes, and it is a failure of the dependency.
pub(crate) fn rejection_of_tower(error: &(dyn StdError + 'static)) -> Option<&'static Rejection> {
    if size_of_val(error) > 0 {
        return None;
    }
    let reads = |debug: &str, display: &str| {
        is_text(format_args!("{error:?}"), debug) && is_text(format_args!("{error}"), display)
    };
    if reads("Overloaded", "service overloaded") {
        Some(&LOAD_SHED)
    } else if reads("Elapsed(())", "request timed out") {
        Some(&ELAPSED)
    } else {
        None
    }
}

/// Compares a formatted text without an allocation.
fn is_text(formatted: fmt::Arguments<'_>, text: &str) -> bool {
    let mut rest = Rest(text);
    rest.write_fmt(formatted).is_ok() && rest.0.is_empty()
}

/// The rest of an expected text.
struct Rest<'a>(&'a str);

impl Write for Rest<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(piece).ok_or(fmt::Error)?;
        Ok(())
    }
}
