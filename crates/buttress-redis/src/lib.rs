//! Stores the records of [buttress](mod@buttress)'s idempotency layer in Redis 5 or later.
//!
//! Many processes can share the records. Each step of the [`Store`] runs as one Lua script.
//!
//! ```toml
//! [dependencies]
//! buttress = "0.1"
//! buttress-redis = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! ```no_run
//! use buttress::idempotency::{IdempotencyLayer, Key, RequestKey};
//! use buttress_redis::RedisStore;
//!
//! type Payment = (&'static str, u64);
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = RedisStore::builder("redis://127.0.0.1/").prefix("payments:").build().await?;
//!     let layer = IdempotencyLayer::builder_fn(
//!         store,
//!         |payment: &Payment| Ok(RequestKey::Key(Key::new(payment.0)?)),
//!         |payment: &Payment, request| request.part(payment.1.to_be_bytes()),
//!     )
//!     .single_tenant()
//!     .build()?;
//!     println!("{layer:?}");
//!     Ok(())
//! }
//! ```
//!
//! For the records of HTTP requests, use `IdempotencyLayer::http(store)`, as the idempotency guide
//! of buttress does.
//!
//! # Versions
//!
//! Version 0.1 works with buttress 0.1, which it re-exports as [`buttress`](mod@buttress). It
//! needs Rust 1.88, because the Redis client does. The re-export has the feature `http`
//! only if your own dependency on buttress enables it, which it does by default.
//!
//! # Durability
//!
//! | | |
//! |---|---|
//! | may lose records on | power loss; failover to a replica, because Redis replicates asynchronously |
//! | keeps records through | `kill -9` of Redis |
//! | required settings | `appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction` |
//!
//! An operation whose record is lost runs again when it is requested again.
//! [`build`](RedisStoreBuilder::build) reads the three settings and fails unless they have these
//! values. [`accept_loss`](RedisStoreBuilder::accept_loss) skips the check.
//!
//! `appendfsync everysec` is not enough, even if only the process dies. While a write to the disk
//! is slow, Redis acknowledges records before it hands them to the operating system. In a test,
//! `kill -9` then lost 7,277 of 24,188 acknowledged records. With `always`, it lost none of
//! 18,826.
//!
//! # Keys
//!
//! The records are spread over 256 shards by the first byte of the [`StorageKey`]. In the table,
//! `xx` is this byte as two hexadecimal digits. The braces make it a hash tag, which keeps all keys
//! of a step in one slot of a cluster.
//!
//! | key | value |
//! |---|---|
//! | `buttress:{xx}:r:<64 digits>` | the record, a hash |
//! | `buttress:{xx}:fence` | the last fence that was granted. It never expires. The next fence is one more, or the time in microseconds if that is larger, which keeps fences growing even if the counter is lost |
//! | `buttress:{xx}:leases` | a sorted set of the operations that become unknown when their lease ends, scored by that end |
//! | `buttress:{xx}:unknown` | a sorted set of the unknown operations, scored by the end of their retention |
//!
//! The fields of a record are:
//!
//! - `v`: the version of this layout, 1.
//! - `state`: `reserved`, `started`, `taken over`, `completed` or `unknown`.
//! - `owner`, `fence` and `fingerprint`.
//! - `since`: the time of the claim or the completion, or the time since when the outcome is
//!   unknown. All times are in microseconds, by the server's `TIME`. The latest possible time is in
//!   the year 2255.
//! - `until`: the end of the lease, of the time to live or of the retention.
//! - `unknown_for`: the retention, in microseconds, if the record becomes unknown.
//! - `from`: the fence of the run that was taken over.
//! - `checkpoint` and `payload`.
//!
//! A record of a newer version is rejected and left unchanged. Listings, sweeps and renewals skip
//! a record that cannot be read, so that it does not fail the others.
//!
//! # Clean-up
//!
//! Redis removes a record one second after the record has ended. A record ends as follows:
//!
//! - a reserved record at the end of its lease,
//! - a started or taken-over record at the end of its lease plus its retention,
//! - a completed record at the end of its time to live,
//! - an unknown record at the end of its retention.
//!
//! A [sweep](Store::sweep) finds only records with an entry in the sorted sets. A listing of
//! unknown operations visits 32 shards in each round trip, until it has enough. In each shard that
//! it visits, it reads the keys of all unknown operations.
//!
//! # When Redis is full
//!
//! A full Redis rejects new claims and checkpoints with [`StoreError::Full`]. Claimed operations
//! can still be renewed, completed, abandoned and released. The results of the operations in flight
//! can therefore exceed `maxmemory`, so leave room for them. Only `maxmemory` bounds the number of
//! records.
//!
//! # Round trips
//!
//! A step is one `EVALSHA`. After a restart of the server, the first use of a script takes a
//! second round trip with `EVAL`. Leases are renewed in one pipeline. It contains one script for
//! each shard with leases, and more than one if a shard has more than 500 leases.
//!
//! # Clusters
//!
//! A script touches only keys of one slot, so a proxy can spread the shards over a cluster. The
//! store itself connects to one server and follows no redirections.

mod builder;
mod connection;
mod keys;
mod reply;
mod step;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use buttress::idempotency::{
    Claim, ClaimMode, ClaimOutcome, Completed, Hold, OnUnknown, Owner, Resolution, StepOutcome,
    StorageKey, Store, StoreError, UnknownOperation,
};
use redis::Value;

pub use self::builder::{RedisSetupError, RedisStoreBuilder};
pub use buttress;

use self::{
    connection::Connection,
    keys::{Keys, shard_of},
    reply::Reply,
    step::{
        ABANDON, CHECKPOINT, CLAIM, COMPLETE, COUNT, Call, DUE, MARK_STARTED, RELEASE, RENEW,
        RESOLVE, SWEEP, Step, UNKNOWN,
    },
};

/// The maximum number of leases that one script renews, which bounds how long it blocks the server.
const RENEWED_AT_ONCE: usize = 500;

/// The number of shards that are listed in one round trip.
const LISTED_AT_ONCE: usize = 32;

/// A store of idempotency records in Redis.
///
/// Clones share one connection, which is replaced when it fails. See the [crate docs](self) for
/// durability, keys and clean-up.
///
/// ```no_run
/// use buttress_redis::{RedisSetupError, RedisStore};
///
/// # async fn example() -> Result<(), RedisSetupError> {
/// let store = RedisStore::builder("redis://127.0.0.1/").prefix("payments:").build().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RedisStore {
    connection: Arc<Connection>,
    keys: Keys,
}

impl RedisStore {
    /// Returns the prefix of the names of all keys.
    pub fn prefix(&self) -> &str {
        self.keys.prefix()
    }

    fn shard<'a>(&self, step: &'static Step, shard: u8) -> Call<'a> {
        Call::new(step, self.keys.shared(shard))
    }

    fn record<'a>(&self, step: &'static Step, key: &StorageKey) -> Call<'a> {
        self.shard(step, shard_of(key)).key(self.keys.record(key))
    }

    fn held<'a>(&self, step: &'static Step, hold: &'a Hold) -> Call<'a> {
        self.record(step, &hold.key).bytes(hold.owner.as_bytes()).text(hold.fence)
    }

    async fn call(&self, call: Call<'_>) -> Result<Reply, StoreError> {
        let answers = self.connection.call(&[call]).await?;
        Reply::new(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    async fn call_each(
        &self,
        calls: &[Call<'_>],
    ) -> Result<impl Iterator<Item = Result<Reply, StoreError>> + use<>, StoreError> {
        Ok(self.connection.call(calls).await?.into_iter().map(Reply::new))
    }
}

/// Converts to microseconds, at most the last instant that the scripts can represent.
fn micros(duration: Duration) -> u64 {
    const LONGEST: u64 = 9_000_000_000_000_000;
    u64::try_from(duration.as_micros()).map_or(LONGEST, |micros| micros.min(LONGEST))
}

fn shards() -> impl Iterator<Item = u8> {
    0..=u8::MAX
}

impl Store for RedisStore {
    type Payload = Vec<u8>;

    async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
        let fingerprint = claim.fingerprint.to_bytes();
        let call = self
            .record(&CLAIM, &claim.key)
            .bytes(claim.owner.as_bytes())
            .bytes(&fingerprint)
            .text(match claim.mode {
                ClaimMode::Started => "started",
                ClaimMode::Reserved => "reserved",
            })
            .text(match claim.on_unknown {
                OnUnknown::Keep => "keep",
                OnUnknown::TakeOver => "take over",
            })
            .text(micros(claim.lease))
            .text(micros(claim.unknown_for));
        self.call(call).await?.answer()
    }

    async fn mark_started(&self, hold: &Hold) -> Result<StepOutcome, StoreError> {
        self.call(self.held(&MARK_STARTED, hold)).await?.written()
    }

    async fn renew(&self, holds: &[Hold], lease: Duration) -> Result<Vec<StepOutcome>, StoreError> {
        let mut by_shard = BTreeMap::<u8, Vec<usize>>::new();
        for (index, hold) in holds.iter().enumerate() {
            by_shard.entry(shard_of(&hold.key)).or_default().push(index);
        }
        let mut calls = Vec::new();
        let mut asked = Vec::new();
        for (shard, indices) in &by_shard {
            for indices in indices.chunks(RENEWED_AT_ONCE) {
                let mut call = self.shard(&RENEW, *shard).text(micros(lease));
                for hold in indices.iter().map(|&index| &holds[index]) {
                    call = call
                        .key(self.keys.record(&hold.key))
                        .bytes(hold.owner.as_bytes())
                        .text(hold.fence);
                }
                calls.push(call);
                asked.push(indices);
            }
        }
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let mut written = vec![StepOutcome::Stale; holds.len()];
        for (reply, indices) in self.call_each(&calls).await?.zip(asked) {
            let renewed = reply?.renewed()?;
            if renewed.len() != indices.len() {
                return Err(StoreError::Garbled("a different number of results than leases"));
            }
            for (&index, renewed) in indices.iter().zip(renewed) {
                written[index] = renewed;
            }
        }
        Ok(written)
    }

    async fn checkpoint(
        &self,
        hold: &Hold,
        checkpoint: Vec<u8>,
    ) -> Result<StepOutcome, StoreError> {
        self.call(self.held(&CHECKPOINT, hold).bytes(&checkpoint)).await?.written()
    }

    async fn complete(
        &self,
        hold: &Hold,
        completed: Completed<Vec<u8>>,
        ttl: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let mut call = self.held(&COMPLETE, hold).text(micros(ttl));
        if let Some(payload) = &completed.payload {
            call = call.bytes(payload);
        }
        self.call(call).await?.written()
    }

    async fn release(
        &self,
        key: &StorageKey,
        owner: &Owner,
        unknown_for: Duration,
    ) -> Result<StepOutcome, StoreError> {
        let call = self.record(&RELEASE, key).bytes(owner.as_bytes()).text(micros(unknown_for));
        self.call(call).await?.written()
    }

    async fn abandon(&self, hold: &Hold, unknown_for: Duration) -> Result<StepOutcome, StoreError> {
        self.call(self.held(&ABANDON, hold).text(micros(unknown_for))).await?.written()
    }

    async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        resolution: Resolution<Vec<u8>>,
    ) -> Result<StepOutcome, StoreError> {
        let mut call = self.record(&RESOLVE, key).text(fence);
        if let Resolution::Completed(completed, ttl) = &resolution {
            call = call.text(micros(*ttl));
            if let Some(payload) = &completed.payload {
                call = call.bytes(payload);
            }
        }
        self.call(call).await?.written()
    }

    async fn unknown(
        &self,
        after: Option<StorageKey>,
        limit: usize,
    ) -> Result<Vec<UnknownOperation>, StoreError> {
        let first = after.map_or(0, |after| shard_of(&after));
        let remaining: Vec<_> = (first..=u8::MAX).collect();
        let mut listed = Vec::new();
        for shards in remaining.chunks(LISTED_AT_ONCE) {
            let left = limit - listed.len();
            if left == 0 {
                break;
            }
            let calls: Vec<_> = shards
                .iter()
                .map(|&shard| {
                    let call = self.shard(&UNKNOWN, shard).text(self.keys.base(shard)).text(left);
                    match after {
                        Some(after) => call.text(after),
                        None => call,
                    }
                })
                .collect();
            for reply in self.call_each(&calls).await? {
                listed.extend(reply?.listed()?);
            }
            listed.truncate(limit);
        }
        Ok(listed)
    }

    async fn count_unknown(&self) -> Result<u64, StoreError> {
        let calls: Vec<_> =
            shards().map(|shard| self.shard(&COUNT, shard).text(self.keys.base(shard))).collect();
        self.call_each(&calls).await?.map(|reply| reply?.counted()).sum()
    }

    // The retention is not a parameter, because each record has its own in `unknown_for`.
    async fn sweep(&self, limit: usize) -> Result<usize, StoreError> {
        let calls: Vec<_> = shards().map(|shard| self.shard(&DUE, shard)).collect();
        let mut left = limit;
        let mut calls_of_due = Vec::new();
        for (shard, reply) in shards().zip(self.call_each(&calls).await?) {
            let due = usize::try_from(reply?.counted()?).unwrap_or(usize::MAX).min(left);
            if due > 0 {
                let call = self.shard(&SWEEP, shard).text(self.keys.base(shard)).text(due);
                calls_of_due.push(call);
                left -= due;
            }
        }
        if calls_of_due.is_empty() {
            return Ok(0);
        }
        let swept: u64 = self
            .call_each(&calls_of_due)
            .await?
            .map(|reply| reply?.counted())
            .sum::<Result<_, _>>()?;
        Ok(usize::try_from(swept).unwrap_or(usize::MAX))
    }
}

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
