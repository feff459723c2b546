//! The fill level of a store.

/// The use of a bounded store, or of the share of one scope, and its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreUsage {
    /// The number of records, which includes those whose time is over until they are removed.
    pub records: u64,
    /// The maximum number of records.
    pub max_records: u64,
    /// The number of bytes that payloads use or reserve.
    pub bytes: u64,
    /// The maximum number of bytes.
    pub max_bytes: u64,
}

impl StoreUsage {
    /// Creates a usage. A maximum of `u64::MAX` means that there is no limit.
    pub fn new(records: u64, max_records: u64, bytes: u64, max_bytes: u64) -> Self {
        Self { records, max_records, bytes, max_bytes }
    }

    /// Returns the fill level in percent, rounded down: of the records or of the bytes, whichever
    /// is fuller.
    ///
    /// It can exceed 100, because the result of a run is always recorded.
    pub fn percent(&self) -> u64 {
        let percent = |used: u64, max: u64| match used.checked_mul(100) {
            Some(used) => used / max.max(1),
            None => used / (max / 100).max(1),
        };
        percent(self.records, self.max_records).max(percent(self.bytes, self.max_bytes))
    }
}
