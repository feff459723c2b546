//! The configuration of a fallback, and its checks.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    ConfigError, Fault,
    call::{degraded::Reason, reserve::Reserve},
    telemetry::{Kind, ReporterCell},
};

/// The default limit. A fallback is local, or has a stack of its own.
const LIMIT: Duration = Duration::from_secs(1);

/// A function that chooses the failures that fall back.
type When = Arc<dyn Fn(&Reason) -> bool + Send + Sync>;

/// The settings of a fallback.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    pub(super) limit: Duration,
    /// The share of the caller's time that is kept for the fallback.
    pub(super) reserve: f64,
    pub(super) also_permanent: bool,
    pub(super) when: Option<When>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reporter: ReporterCell::new(None, Kind::Fallback),
            limit: LIMIT,
            reserve: Reserve::RATIO,
            also_permanent: false,
            when: None,
        }
    }
}

impl Config {
    /// Returns the settings and the reserve, or the error of the first invalid setting.
    pub(super) fn checked(self) -> Result<(Self, Reserve), ConfigError> {
        ConfigError::require_positive("limit", self.limit)?;
        if self.also_permanent && self.when.is_some() {
            let rule = "`when_fn` decides about permanent failures too";
            return Err(ConfigError::new("also_permanent", true, rule));
        }
        let reserve = Reserve::new("reserve", self.reserve, self.limit)?;
        Ok((self, reserve))
    }

    /// Returns `true` if a call that ended for this reason falls back.
    ///
    /// Calls the function of the user.
    pub(super) fn falls_back(&self, reason: &Reason) -> bool {
        if let Some(when) = &self.when {
            return when(reason);
        }
        match reason {
            Reason::Failed(Fault::Permanent) => self.also_permanent,
            reason => reason.is_outage(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("reporter", &self.reporter)
            .field("limit", &self.limit)
            .field("reserve", &self.reserve)
            .field("also_permanent", &self.also_permanent)
            .field("when", &self.when.as_ref().map(|_| format_args!("..")))
            .finish()
    }
}
