//! What every store of the idempotency guard must do, as checks that run on any [`Store`].
//!
//! [`check`] makes stores through a [`Fixture`] and runs every check of [`names`] on them: the states of a
//! record and each way between them, as the docs of [`Store`] say, and what must hold whatever happens:
//!
//! - an operation runs at most once, unless its caller declared that it may run again;
//! - no two answers for a key contradict each other;
//! - a stale fence never changes anything;
//! - every key leaves its flight within a bounded time.
//!
//! # Time
//!
//! The checks run at the same time, on keys of their own, and wait for leases to end. They need a tokio
//! runtime. A store whose time is tokio's is checked on a paused clock, in no time at all; one with time of
//! its own, such as a server, in real time, in a few seconds. No check relies on two clocks being equal: it
//! lets leases end with a [unit](Fixture::unit) to spare, and if the store was so slow that a lease may have
//! ended too early, begins anew with longer ones.
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
mod operators;
mod report;
mod runs;
mod stale;
#[cfg(test)]
mod tests;

pub use self::report::{Finding, Report};

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use self::bench::{Bench, Checked, Failure};
use super::panic_message;
use crate::idempotency::Store;

/// How to check a store.
pub trait Fixture {
    /// The store.
    type Store: Store;

    /// A store without any records, ready for use. It is asked for a dozen times, and what one store is told
    /// must not be seen in another: give each a folder, a schema or a prefix of its own.
    ///
    /// A panic here, or in any other method, fails the check that it happens in.
    fn fresh(&self) -> impl Future<Output = Self::Store>;

    /// A payload that these bytes can be had from again.
    fn payload(&self, bytes: Vec<u8>) -> PayloadOf<Self>;

    /// What [`payload`](Self::payload) was given.
    fn bytes(&self, payload: &PayloadOf<Self>) -> Vec<u8>;

    /// What the checks count time in. The leases that they let end last 1 to 6 of it, and each end is waited for
    /// with one to spare: longer than the store ever takes to answer, and than its clock errs. 100 ms by
    /// default.
    fn unit(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Lets the store's time pass. It sleeps by default, on a paused clock too.
    ///
    /// What moves the time of all checks at once, such as [`tokio::time::advance`], must not be put in its
    /// place: they run at the same time. A store whose clock can only be moved is checked with
    /// [`check_one`], one name after the other.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }
}

/// The payload of a fixture's store.
pub type PayloadOf<F> = <<F as Fixture>::Store as Store>::Payload;

/// The longest that a check may take. It ends a check whose store never answers.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How often a check begins anew because the store was slow, each time with units twice as long.
const ATTEMPTS: u32 = 5;

/// Names the checks, and says which of them share one store: those that look only at keys of their own.
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
    }
    alone {
    }
}

/// The names of all checks, each of which says what must hold.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHARED.iter().chain(ALONE).copied()
}

/// Runs every check. It needs a tokio runtime with a timer.
pub async fn check<F: Fixture>(fixture: &F) -> Report {
    let shared = match caught(async { Ok(fixture.fresh().await) }).await {
        Ok(store) => store,
        Err(failure) => {
            let why = failure.to_string();
            return Report::new(vec![Finding::new("fresh_makes_a_store", Err(why))]);
        }
    };
    let of_shared = SHARED.iter().map(|&name| (name, Some(shared.clone())));
    let of_alone = ALONE.iter().map(|&name| (name, None));
    let checks = of_shared.chain(of_alone).map(|(name, store)| find(fixture, name, store));
    Report::new(all(checks).await)
}

/// Runs the check of this [name](names), on a store of its own: to see what one does.
pub async fn check_one<F: Fixture>(fixture: &F, name: &str) -> Report {
    let name = names().find(|known| *known == name).unwrap_or("there_is_a_check_of_this_name");
    Report::new(vec![find(fixture, name, None).await])
}

async fn find<F: Fixture>(
    fixture: &F,
    name: &'static str,
    shared: Option<F::Store>,
) -> Finding {
    for attempt in 0..ATTEMPTS {
        let unit = fixture.unit().saturating_mul(1 << attempt);
        let attempt = caught(async {
            let store = match &shared {
                Some(store) => store.clone(),
                None => fixture.fresh().await,
            };
            run(name, &Bench::new(fixture, store, unit)).await
        });
        let verdict = match tokio::time::timeout(TIME_LIMIT, attempt).await {
            Ok(Err(Failure::TooSlow)) => continue,
            Ok(verdict) => verdict.map_err(|failure| failure.to_string()),
            Err(_) => Err(format!("it did not end within {TIME_LIMIT:?}")),
        };
        return Finding::new(name, verdict);
    }
    Finding::new(name, Err(Failure::TooSlow.to_string()))
}

/// Turns a panic into the failure of the one check that it ends.
async fn caught<T>(check: impl Future<Output = Checked<T>>) -> Checked<T> {
    let mut check = pin!(check);
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| check.as_mut().poll(cx))).unwrap_or_else(|payload| {
            let what = panic_message(&*payload);
            Poll::Ready(Err(Failure::Broken(format!("it panicked: {what}"))))
        })
    })
    .await
}

/// Awaits all of them at once, and gives what they give in their order.
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
