//! The report of a fallback for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::{layer::FallbackLayer, source::FallbackSource};
use crate::{
    describe::{Describe, Fact, Facts, UpTo},
    sealed::Sealed,
};

/// The longest time of a fallback. A value takes none.
pub(crate) const FALLBACK_LIMIT: Fact<Duration> = Fact::new("limit of the fallback");
/// There is a fallback.
pub(crate) const FALLBACK: Fact<()> = Fact::new("fallback");

impl<R, C> Sealed for FallbackLayer<R, C> {}

impl<R: FallbackSource, C> Describe for FallbackLayer<R, C> {
    fn describe(&self, facts: &mut Facts) {
        facts.note(FALLBACK);
        if R::WAITS {
            let text = format_args!("{}, {}", R::DESCRIPTION, UpTo(self.limit()));
            facts.line("fallback", text);
            facts.put(FALLBACK_LIMIT, self.limit());
        } else {
            facts.line("fallback", R::DESCRIPTION);
        }
    }
}
