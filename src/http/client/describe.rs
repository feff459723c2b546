//! The report of the transport for [`Stack::explain`](crate::Stack::explain).

use super::layer::HttpClientLayer;
use crate::{
    describe::{Describe, Facts, fact},
    sealed::Sealed,
};

impl Sealed for HttpClientLayer {}

impl Describe for HttpClientLayer {
    fn describe(&self, facts: &mut Facts) {
        let wait = match self.config().idle {
            Some(idle) => format!("up to {idle:?}"),
            None => "for ever".to_owned(),
        };
        let text =
            format_args!("writes the headers of the hop; waits {wait} for a frame of the body");
        facts.line("http", text);
        facts.note(fact::HTTP);
    }
}
