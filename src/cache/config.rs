//! The configuration of a cache, and its checks.

use std::time::Duration;

use crate::{
    ConfigError,
    call::reserve::Reserve,
    telemetry::{Kind, ReporterCell},
};

/// The bytes that an entry needs besides its key and its value.
pub(super) const ENTRY_BYTES: usize = 256;
/// The most bytes that a value can be allowed to have.
const MOST_ENTRY_BYTES: usize = 1 << 20;
/// The most time of a caller that is kept for an older response, which needs next to none.
const MOST_RESERVED: Duration = Duration::from_secs(1);
/// The number of the biggest entries for which each shard of the store has room.
const ENTRIES_A_SHARD: usize = 16;
/// The most shards. More would not make a hit faster on any usual machine.
const MOST_SHARDS: usize = 64;

/// The settings of a cache.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) reporter: ReporterCell,
    pub(super) times: Times,
    pub(super) reserve: f64,
    pub(super) max_bytes: usize,
    pub(super) max_entry_bytes: usize,
    pub(super) max_shared_calls: u32,
    pub(super) finishes_abandoned: bool,
}

/// The times of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) ttl: Duration,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    pub(super) hold_off: Duration,
    pub(super) patience: Option<Duration>,
    /// The time of a caller that is kept for an older response.
    pub(super) reserve: Reserve,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reporter: ReporterCell::new(None, Kind::Cache),
            times: Times {
                ttl: Duration::from_secs(60),
                while_revalidate: Duration::ZERO,
                if_error: Duration::ZERO,
                hold_off: Duration::from_secs(1),
                patience: None,
                reserve: Reserve::up_to(MOST_RESERVED),
            },
            reserve: Reserve::RATIO,
            max_bytes: 64 << 20,
            max_entry_bytes: 64 << 10,
            max_shared_calls: 1_024,
            finishes_abandoned: false,
        }
    }
}

impl Config {
    /// Returns the settings, or an error if one of them is invalid.
    pub(super) fn checked(mut self) -> Result<Self, ConfigError> {
        self.times.reserve = Reserve::new("reserve", self.reserve, MOST_RESERVED)?;
        ConfigError::require_nonzero("max_entry_bytes", self.max_entry_bytes)?;
        ConfigError::require_nonzero("max_shared_calls", self.max_shared_calls)?;
        if self.max_entry_bytes > MOST_ENTRY_BYTES {
            let rule = "it must be at most 1 MiB, because each entry is in memory as a whole";
            return Err(ConfigError::new("max_entry_bytes", self.max_entry_bytes, rule));
        }
        if self.max_bytes / ENTRIES_A_SHARD < self.biggest_entry() {
            let rule = "it must have room for 16 entries of `max_entry_bytes` and 256 B each";
            return Err(ConfigError::new("max_bytes", self.max_bytes, rule));
        }
        if self.times.patience.is_some_and(|patience| patience.is_zero()) {
            let rule = "it must be longer than zero";
            return Err(ConfigError::new("patience", Duration::ZERO, rule));
        }
        if self.times.patience.is_some() && self.times.if_error.is_zero() {
            let rule = "it needs `if_error`, because only an older response can be given instead";
            return Err(ConfigError::new("patience", self.times.patience, rule));
        }
        Ok(self)
    }

    /// Returns the bytes of the biggest entry.
    pub(super) fn biggest_entry(&self) -> usize {
        self.max_entry_bytes + ENTRY_BYTES
    }

    /// Returns the number of shards, so that each of them has room for 16 of the biggest entries.
    ///
    /// The bound on bytes is one for each shard. A shard that is smaller than an entry would never
    /// keep it, without a notice.
    pub(super) fn shards(&self) -> usize {
        let fit = self.max_bytes / (ENTRIES_A_SHARD * self.biggest_entry());
        // The largest power of two that fits, because the store rounds up.
        1 << fit.clamp(1, MOST_SHARDS).ilog2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_bytes: usize, max_entry_bytes: usize) -> Config {
        Config { max_bytes, max_entry_bytes, ..Config::default() }
    }

    #[test]
    fn each_shard_has_room_for_sixteen_of_the_biggest_entries() {
        for (bytes, entry) in [(64 << 20, 64 << 10), (17 << 20, 1 << 20), (1 << 30, 1), (4_112, 1)]
        {
            let config = config(bytes, entry).checked().unwrap();
            assert!(config.shards() >= 1 && config.shards().is_power_of_two());
            assert!(bytes / config.shards() >= 16 * config.biggest_entry(), "{bytes} {entry}");
        }
        let error = config(4 << 20, 1 << 20).checked().unwrap_err();
        assert_eq!(error.knob(), "max_bytes");
    }
}
