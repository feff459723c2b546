//! The counts of an idempotency layer.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::StoreUsage;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counts of an idempotency layer since it was built.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
            /// The total time of the steps of the store.
            pub store_time: Duration,
            /// The current use of the store, or `None` if it is not bounded or does not know.
            ///
            /// [`StoreUsage::percent`] is its fill level.
            pub store: Option<StoreUsage>,
        }

        /// The live counters behind [`Counts`].
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
            store_nanos: AtomicU64,
        }

        impl Counters {
            /// Counts a step of the store that took `took`.
            pub(super) fn store_step(&self, took: Duration) {
                count(&self.store_steps);
                let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                self.store_nanos.fetch_add(nanos, Ordering::Relaxed);
            }

            pub(super) fn read(&self, store: Option<StoreUsage>) -> Counts {
                Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)+
                    store_time: Duration::from_nanos(self.store_nanos.load(Ordering::Relaxed)),
                    store,
                }
            }
        }
    };
}

counts! {
    /// The number of granted claims.
    claims,
    /// The number of granted claims that took over an unknown operation.
    takeovers,
    /// The number of replayed results.
    replays,
    /// The number of times that a request was found in flight.
    ///
    /// A waiting duplicate counts each time it finds its request in flight.
    conflicts,
    /// The number of requests whose key was used for another request.
    mismatches,
    /// The number of unknown outcomes.
    ///
    /// It counts runs of this process that became unknown, and requests that were rejected as
    /// unknown.
    unknowns,
    /// The number of leases that ended before their run.
    lost_leases,
    /// The number of steps of the store that failed or timed out.
    store_errors,
    /// The number of steps of the store. A step is one call of a [`Store`](super::Store) method.
    store_steps,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
