//! The total of a counter over all layers that had its names, one after the other.

/// A total that never goes back, even if the counter does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    /// The sum of the counters that have ended.
    before: u64,
    /// The last number of the current one.
    last: u64,
    is_current: bool,
}

impl Total {
    /// Takes the number of the counter, and returns the total.
    pub(super) fn advance(&mut self, number: u64) -> u64 {
        if number < self.last {
            self.before = self.before.saturating_add(self.last);
        }
        self.last = number;
        self.is_current = true;
        self.before.saturating_add(number)
    }

    /// Ends the counter if it was not advanced since the last time.
    pub(super) fn end_unless_advanced(&mut self) {
        if !self.is_current {
            self.before = self.before.saturating_add(self.last);
            self.last = 0;
        }
        self.is_current = false;
    }
}

#[cfg(test)]
mod tests {
    use super::Total;

    #[test]
    fn a_total_never_goes_back() {
        let mut total = Total::default();
        assert_eq!([3, 5, 2, 2, 4].map(|number| total.advance(number)), [3, 5, 7, 7, 9]);
        // The layer is still there.
        total.end_unless_advanced();
        assert_eq!(total.advance(4), 9);
        // It is dropped, and another one has counted to 4 already when it is first seen.
        total.end_unless_advanced();
        total.end_unless_advanced();
        total.end_unless_advanced();
        assert_eq!(total.advance(4), 13);
    }
}
