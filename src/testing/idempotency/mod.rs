//! Checks of a [`Store`](crate::idempotency::Store) of the idempotency layer.
//!
//! Start with an implementation of [`Fixture`], which makes your stores. Then call [`check`], and
//! [`assert`](Report::assert) on the report. To examine a single check, call [`check_one`].
//!
//! [`check`] runs every check of [`names`]. The checks cover the states of a record and each
//! transition between them, as documented at [`Store`](crate::idempotency::Store). They also cover
//! these invariants:
//!
//! - An operation runs at most once, unless its caller declared that it may run again.
//! - No two results for a key contradict each other.
//! - A stale fence never changes anything.
//! - No key stays in flight for an unbounded time.
//!
//! # Time
//!
//! The checks run concurrently, on their own keys, and wait for leases to end. They need a tokio
//! runtime with a timer. If the store uses tokio's clock, run the checks on a paused clock, where
//! waiting takes no time. If the store has its own clock, as a server does, run them in real time,
//! where they take a few seconds.
//!
//! No check relies on two equal clocks. A check waits one [unit](Fixture::unit) longer than a
//! lease. If the store was so slow that a lease may have ended too early, the check starts again
//! with longer leases.
//!
//! # Example
//!
//! ```
//! use buttress::{idempotency::store::MemoryStore, testing::idempotency::{Fixture, check}};
//!
//! struct Memory;
//!
//! impl Fixture for Memory {
//!     type Store = MemoryStore;
//!
//!     async fn fresh(&self) -> MemoryStore {
//!         MemoryStore::new()
//!     }
//!
//!     fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
//!         bytes
//!     }
//!
//!     fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
//!         payload.clone()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! check(&Memory).await.assert();
//! # }
//! ```

mod bench;
mod bytes;
mod claims;
mod crowds;
mod fixture;
mod operators;
mod runs;
mod stale;
#[cfg(test)]
mod tests;

pub use self::fixture::{Fixture, PayloadOf};

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use self::bench::{Bench, Checked, Failure};
use super::{
    panics::panic_message,
    report::{Finding, Report},
};
use crate::call::catch_panic::CatchPanic;

/// The maximum time of one attempt of a check. It ends a check whose store never completes a step.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The number of attempts of a check with a slow store. Each attempt doubles the unit.
const ATTEMPTS: u32 = 5;

/// Lists the checks. A shared check uses only its own keys, and shares its store with others.
macro_rules! checks {
    (
        shared { $($shared:ident::$shared_name:ident,)* }
        alone { $($alone:ident::$alone_name:ident,)* }
    ) => {
        const SHARED: &[&str] = &[$(stringify!($shared_name)),*];
        const ALONE: &[&str] = &[$(stringify!($alone_name)),*];

        async fn run<F: Fixture>(name: &str, bench: &Bench<'_, F>) -> Checked {
            match name {
                $(stringify!($shared_name) => Box::pin($shared::$shared_name(bench)).await,)*
                $(stringify!($alone_name) => Box::pin($alone::$alone_name(bench)).await,)*
                _ => Err(Failure::Broken("there is no check of this name".to_owned())),
            }
        }
    };
}

checks! {
    shared {
        claims::an_absent_record_is_claimed,
        claims::a_claim_in_flight_keeps_all_others_out,
        claims::in_flight_reports_its_age_and_the_rest_of_its_lease,
        claims::its_owner_is_granted_a_claim_again,
        claims::a_claim_again_has_a_new_lease,
        claims::a_claim_again_after_its_lease_has_no_second_fence,
        claims::a_repeated_take_over_reports_the_same_earlier_run,
        claims::its_owner_is_answered_as_others_once_it_is_done,
        claims::another_request_is_told_what_the_key_was_used_for,
        claims::a_key_that_is_free_again_takes_any_request,
        claims::fences_grow_even_after_the_record_is_gone,
        claims::an_unknown_operation_is_left_alone,
        claims::a_take_over_has_a_new_fence_and_the_checkpoint,
        claims::a_take_over_finds_only_what_is_unknown,
        claims::what_was_taken_over_is_unknown_again_when_it_is_lost_or_released,
        runs::a_started_run_is_unknown_when_its_lease_ends,
        runs::a_reserved_run_leaves_no_trace_when_its_lease_ends,
        runs::a_reserved_run_is_started_once_it_is_marked,
        runs::a_mark_after_the_lease_is_stale_and_the_key_is_free,
        runs::a_renewed_lease_ends_later_or_sooner,
        runs::many_leases_are_renewed_at_once_and_answered_in_order,
        runs::what_is_completed_is_replayed,
        runs::completing_again_is_applied_and_keeps_the_first_result,
        runs::a_result_that_is_not_kept_is_not_replayable,
        runs::the_time_to_live_counts_from_completion,
        runs::neither_a_replay_nor_a_repetition_prolongs_the_time_to_live,
        runs::a_lapsed_run_cannot_be_completed,
        runs::what_is_released_is_free,
        runs::what_is_abandoned_is_unknown_until_its_retention_ends,
        runs::the_retention_counts_from_the_end_of_the_lease,
        runs::no_key_stays_in_flight_without_its_worker,
        stale::a_stale_hold_changes_nothing_in_flight,
        stale::a_stale_mark_does_not_start_a_reserved_run,
        stale::a_run_that_was_taken_over_changes_nothing,
        stale::nothing_changes_what_is_completed,
        stale::a_hold_of_what_is_gone_makes_no_record,
        stale::a_hold_of_what_is_unknown_is_over,
        stale::a_stale_run_changes_nothing_after_a_resolution,
        stale::keys_do_not_touch_each_other,
        operators::an_operation_resolved_as_done_is_replayed,
        operators::an_operation_resolved_as_never_done_is_free,
        operators::only_what_is_unknown_under_the_fence_is_resolved,
        bytes::payloads_come_back_byte_for_byte,
        bytes::times_may_be_as_long_as_a_century,
        crowds::of_many_claims_at_once_one_is_granted,
        crowds::of_many_take_overs_at_once_one_is_granted,
        crowds::one_owner_at_once_has_one_fence,
        crowds::no_two_hold_a_key_at_once_and_no_fence_is_given_twice,
        crowds::an_effect_happens_once_and_all_are_told_of_it,
        crowds::only_the_heir_of_a_stale_run_completes,
    }
    alone {
        operators::unknown_operations_are_listed_page_by_page,
        operators::a_sweep_is_bounded_and_touches_only_what_is_over,
        bytes::keys_owners_and_fingerprints_may_be_any_bytes,
    }
}

/// Returns the names of all checks, each of which states a property.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHARED.iter().chain(ALONE).copied()
}

/// Runs every check, and returns the report.
///
/// It needs a tokio runtime with a timer.
pub async fn check<F: Fixture>(fixture: &F) -> Report {
    let shared = match caught(async { Ok(fixture.fresh().await) }).await {
        Ok(store) => store,
        Err(failure) => {
            let why = failure.to_string();
            return Report { findings: vec![Finding::new("fresh_makes_a_store", Err(why))] };
        }
    };
    let of_shared = SHARED.iter().map(|&name| (name, Some(shared.clone())));
    let of_alone = ALONE.iter().map(|&name| (name, None));
    let checks = of_shared.chain(of_alone).map(|(name, store)| find(fixture, name, store));
    Report { findings: all(checks).await }
}

/// Runs the check of this [name](names), on its own store.
///
/// It needs a tokio runtime with a timer. If there is no check of this name, the report has a
/// failure.
pub async fn check_one<F: Fixture>(fixture: &F, name: &str) -> Report {
    let name = names().find(|known| *known == name).unwrap_or("there_is_a_check_of_this_name");
    Report { findings: vec![find(fixture, name, None).await] }
}

async fn find<F: Fixture>(fixture: &F, name: &'static str, shared: Option<F::Store>) -> Finding {
    for attempt in 0..ATTEMPTS {
        let unit = fixture.unit().saturating_mul(1 << attempt);
        let attempt = caught(async {
            let store = match &shared {
                Some(store) => store.clone(),
                None => fixture.fresh().await,
            };
            run(name, &Bench::new(fixture, store, unit)).await
        });
        let outcome = match tokio::time::timeout(TIME_LIMIT, attempt).await {
            Ok(Err(Failure::TooSlow)) => continue,
            Ok(result) => result.map_err(|failure| failure.to_string()),
            Err(_) => Err(format!("it did not end within {TIME_LIMIT:?}")),
        };
        return Finding::new(name, outcome);
    }
    Finding::new(name, Err(Failure::TooSlow.to_string()))
}

/// Turns a panic of a check into its failure.
async fn caught<T>(check: impl Future<Output = Checked<T>>) -> Checked<T> {
    CatchPanic { future: check }.await.unwrap_or_else(|payload| {
        Err(Failure::Broken(format!("it panicked: {}", panic_message(&*payload))))
    })
}

/// Awaits all futures concurrently, and returns their outputs in order.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    enum Slot<U, T> {
        Running(Pin<Box<U>>),
        Done(T),
    }
    let mut slots: Vec<_> = futures.map(|future| Slot::Running(Box::pin(future))).collect();
    poll_fn(|cx| {
        let mut running = false;
        for slot in &mut slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(cx) {
                    Poll::Ready(done) => *slot = Slot::Done(done),
                    Poll::Pending => running = true,
                }
            }
        }
        if running { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    let done = slots.into_iter().filter_map(|slot| match slot {
        Slot::Done(done) => Some(done),
        Slot::Running(_) => None,
    });
    done.collect()
}
