//! What a guard counts.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What a guard has done since it was built.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
            /// How long the store took for them in all.
            pub store_time: Duration,
        }

        /// The same, as it is counted.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
            store_nanos: AtomicU64,
        }

        impl Counters {
            /// Counts a step of the store, which took so long.
            pub(super) fn store_step(&self, took: Duration) {
                count(&self.store_steps);
                let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                self.store_nanos.fetch_add(nanos, Ordering::Relaxed);
            }

            pub(super) fn read(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)+
                    store_time: Duration::from_nanos(self.store_nanos.load(Ordering::Relaxed)),
                }
            }
        }
    };
}

counts! {
    /// Claims that were granted.
    claims,
    /// Of these, how many took over an unknown operation.
    takeovers,
    /// Results that were given again.
    replays,
    /// Requests that found the same one under way, each time that one was told so.
    conflicts,
    /// Requests with a key that was used for another.
    mismatches,
    /// Requests for which nobody knows what became of them: runs that were lost here, and requests that were
    /// told so.
    unknowns,
    /// Leases that ended before their run.
    lost_leases,
    /// Steps of the store that failed or were late.
    store_errors,
    /// Steps of the store.
    store_steps,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
