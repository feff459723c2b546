//! The causes of an error, for messages that say why.

use std::{error::Error as StdError, fmt, iter::successors};

/// The message of an error, followed by those of its causes after colons.
///
/// Most programs print only the outermost error, so its message must say why.
pub(crate) struct WithCauses<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = self.0.to_string();
        f.write_str(&written)?;
        for cause in successors(self.0.source(), |&cause| cause.source()) {
            let message = cause.to_string();
            // Some errors write their cause themselves.
            if !written.ends_with(&message) {
                write!(f, ": {message}")?;
                written = message;
            }
        }
        Ok(())
    }
}
