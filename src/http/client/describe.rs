//! The description of the client layer for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::layer::HttpClientLayer;
use crate::{
    describe::{Describe, Facts, UpTo, fact},
    sealed::Sealed,
};

impl Sealed for HttpClientLayer {}

impl Describe for HttpClientLayer {
    fn describe(&self, facts: &mut Facts) {
        let wait = UpTo(self.config().idle.unwrap_or(Duration::MAX));
        let text = format_args!("writes the hop headers; waits {wait} for a frame of the body");
        facts.line("http", text);
        facts.note(fact::HTTP);
        if !self.config().body_deadline {
            facts.note(fact::BODY_WITHOUT_LIMIT);
        }
    }
}
