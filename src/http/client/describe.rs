//! The description of the client layer for [`Stack::explain`](crate::Stack::explain).

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
            None => "without limit".to_owned(),
        };
        let text = format_args!("writes the hop headers; waits {wait} for a frame of the body");
        facts.line("http", text);
        facts.note(fact::HTTP);
    }
}
