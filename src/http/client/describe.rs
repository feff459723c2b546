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
        let headers = match self.config().write {
            Some(_) => "writes the hop headers",
            None => "writes no headers",
        };
        let covered = match self.config().body_deadline {
            true => "; the timeouts cover the body",
            false => "",
        };
        let buffered = match &self.config().buffer {
            Some(buffer) => {
                format!("; reads up to {} bytes of a body before the response", buffer.most)
            }
            None => String::new(),
        };
        let text =
            format_args!("{headers}; waits {wait} for a frame of the body{covered}{buffered}");
        facts.line("http", text);
        facts.note(fact::HTTP);
        if !self.config().body_deadline {
            facts.note(fact::BODY_WITHOUT_LIMIT);
        }
    }
}
