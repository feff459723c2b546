use crate::{ConfigError, http::checks::unless_room};

/// The limits of the kept data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) max_request: usize,
    pub(super) max_total: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_request: 64 << 10, max_total: 16 << 20 }
    }
}

impl Config {
    pub(super) fn check(self) -> Result<(), ConfigError> {
        unless_room("max_request_bytes", self.max_request)?;
        unless_room("max_total_bytes", self.max_total)?;
        if self.max_total < self.max_request {
            let rule = "it must be at least `max_request_bytes`";
            return Err(ConfigError::new("max_total_bytes", self.max_total, rule));
        }
        Ok(())
    }
}
