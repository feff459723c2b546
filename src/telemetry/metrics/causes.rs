//! The causes of failures, as classifiers name them.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// The number of causes that are told apart.
const CAUSES: usize = 48;
/// The cause of all further ones. OpenTelemetry defines this value.
const OTHER: &str = "_OTHER";

/// A counter for each cause. The first causes have a place of their own, so memory is bounded.
pub(super) struct Causes {
    places: [(OnceLock<&'static str>, AtomicU64); CAUSES],
    others: AtomicU64,
}

impl Causes {
    pub(super) fn add(&self, cause: &'static str) {
        // A classifier may know the cause of all further ones too. It must not have two series.
        let mut places = self.places.iter().filter(|_| cause != OTHER);
        let own = places.find(|(name, _)| *name.get_or_init(|| cause) == cause);
        own.map_or(&self.others, |(_, count)| count).fetch_add(1, Ordering::Relaxed);
    }

    /// Returns each cause and how often it occurred.
    pub(super) fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let known = self.places.iter().filter_map(|(name, count)| Some((*name.get()?, count)));
        let causes = known.chain([(OTHER, &self.others)]);
        let counts = causes.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

impl Default for Causes {
    fn default() -> Self {
        Self {
            places: [const { (OnceLock::new(), AtomicU64::new(0)) }; CAUSES],
            others: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_with_the_name_of_all_others_is_counted_with_them() {
        let causes = Causes::default();
        ["503", OTHER].into_iter().for_each(|cause| causes.add(cause));
        (0..CAUSES).for_each(|n| causes.add(Box::leak(n.to_string().into_boxed_str())));
        let snapshot = causes.snapshot();
        let others = snapshot.iter().filter(|(cause, _)| *cause == OTHER);
        assert_eq!(others.collect::<Vec<_>>(), [&(OTHER, 2)]);
    }

    #[test]
    fn causes_without_a_place_are_counted_together() {
        let causes = Causes::default();
        let names: Vec<&'static str> =
            (0..CAUSES + 3).map(|n| &*Box::leak(n.to_string().into_boxed_str())).collect();
        for _ in 0..2 {
            names.iter().for_each(|name| causes.add(name));
        }
        let snapshot = causes.snapshot();
        assert_eq!(snapshot.len(), CAUSES + 1);
        assert_eq!(snapshot[CAUSES], (OTHER, 6));
        assert!(snapshot[..CAUSES].iter().all(|(_, count)| *count == 2));
    }
}
