//! A call that is dropped at any poll, or that panics in any code of the user, leaves nothing
//! behind.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    hash::{Hash, Hasher},
};

use buttress::{
    Fault, Outcome,
    cache::{CacheCounts, CacheHandle},
    keep::{Keep, Kept},
    testing::{cancel::CancelHarness, task::Spawned},
};
use futures::future::join_all;
use tokio::time::{advance, sleep, timeout};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};

use super::{armed::Fragile, *};

const TICK: Duration = Duration::from_millis(10);

// ===== code of the user =====

const CODES: [&str; 13] = [
    "key_fn",
    "hash of the key",
    "eq of the key",
    "clone of the key",
    "poll_ready",
    "call",
    "poll",
    "classify_fn",
    "keep",
    "ttl_fn",
    "size_fn",
    "clone of the payload",
    "replay",
];

struct Key(u32);

impl Clone for Key {
    fn clone(&self) -> Self {
        armed::run("clone of the key");
        Self(self.0)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        armed::run("eq of the key");
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        armed::run("hash of the key");
        self.0.hash(state);
    }
}

struct Payload(u32);

impl Clone for Payload {
    fn clone(&self) -> Self {
        armed::run("clone of the payload");
        Self(self.0)
    }
}

struct KeepNumbers;

impl Keep<u32> for KeepNumbers {
    type Payload = Payload;
    type Response = u32;
    type Error = Infallible;

    async fn keep(&self, number: u32) -> Kept<Payload, u32> {
        armed::run("keep");
        Kept::new(number, Payload(number), 4)
    }

    fn replay(&self, payload: Payload) -> std::result::Result<u32, Infallible> {
        armed::run("replay");
        Ok(payload.0)
    }
}

// ===== the paths of a call =====

/// A way in which a caller gets its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Hit,
    Begins,
    Joins,
    /// It joins a call that panics, and asks for itself.
    JoinsInVain,
    OlderAfterFailure,
    OlderAfterPatience,
    /// It joins a call that fails, and gets the older response.
    JoinsAFailure,
    /// Another key has the only shared call.
    Alone,
    /// As before, and the service fails.
    AloneWithOlder,
    Bypass,
}

impl Path {
    const ALL: [Self; 10] = [
        Self::Hit,
        Self::Begins,
        Self::Joins,
        Self::JoinsInVain,
        Self::OlderAfterFailure,
        Self::OlderAfterPatience,
        Self::JoinsAFailure,
        Self::Alone,
        Self::AloneWithOlder,
        Self::Bypass,
    ];

    fn has_stale_entry(self) -> bool {
        use Path::*;
        matches!(self, OlderAfterFailure | OlderAfterPatience | JoinsAFailure | AloneWithOlder)
    }

    /// Returns the key that another caller asks for first.
    fn first(self, key: u32) -> Option<u32> {
        match self {
            Self::Joins | Self::JoinsInVain | Self::JoinsAFailure => Some(key),
            Self::Alone | Self::AloneWithOlder => Some(OF_ANOTHER),
            _ => None,
        }
    }

    fn key(self, number: u32) -> u32 {
        if self == Self::Bypass { 0 } else { number }
    }

    /// Returns the number that this path raises.
    fn counted(self, counts: &CacheCounts) -> u64 {
        match self {
            Self::Hit => counts.hits,
            Self::Begins => counts.misses,
            Self::Joins => counts.collapsed,
            Self::JoinsInVain | Self::Alone | Self::Bypass => counts.bypassed,
            _ => counts.stale,
        }
    }

    /// Returns what the service does in one run.
    fn script(self) -> impl Fn(u32, u32) -> Answer + Send + Sync + 'static {
        let calls = AtomicU32::new(0);
        move |key, call| {
            let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move {
                if key == OF_ANOTHER {
                    std::future::pending().await
                }
                sleep(3 * TICK).await;
                assert!(self != Self::JoinsInVain || !is_first, "the shared call panics");
                if matches!(
                    self,
                    Self::OlderAfterFailure | Self::JoinsAFailure | Self::AloneWithOlder
                ) {
                    return Err(Error::Service(io::ErrorKind::Other.into()));
                }
                sleep(3 * TICK).await;
                Ok(call)
            })
        }
    }
}

/// The response of a service that was asked again.
const AGAIN: u32 = 777;
/// A key that hangs.
const OF_ANOTHER: u32 = 1_000;

type Cached = BoxCloneSyncService<u32, u32, Error<io::Error>>;

struct World {
    backend: Backend,
    handle: CacheHandle<Key, Payload>,
    service: Cached,
    /// The numbers of the calls that prepared the entries.
    prepared: CacheCounts,
}

impl World {
    /// Creates a cache with an entry of each of the first keys, if the path needs one.
    async fn new(path: Path, keys: u32) -> Self {
        let backend = Backend::after(Duration::ZERO);
        let builder = CacheLayer::by_fn(|key: &u32| {
            armed::run("key_fn");
            (*key > 0).then_some(Key(*key))
        });
        let builder = builder.ttl(10 * SECOND).if_error(600 * SECOND).hold_off(SECOND);
        let builder = match path {
            Path::OlderAfterPatience => builder.patience(3 * TICK),
            Path::Alone | Path::AloneWithOlder => builder.max_shared_calls(1),
            _ => builder,
        };
        let builder = builder.keep(KeepNumbers).classify_fn(
            |result: std::result::Result<&u32, &Error<io::Error>>| {
                armed::run("classify_fn");
                match result {
                    Ok(_) => Outcome::Success,
                    Err(_) => Outcome::Failure(Fault::Transient),
                }
            },
        );
        let ttl = |_: &Payload| {
            armed::run("ttl_fn");
            None
        };
        let size = |_: &Payload| {
            armed::run("size_fn");
            4
        };
        let cache = builder.ttl_fn(ttl).size_fn(size).build().unwrap();
        let service = BoxCloneSyncService::new(
            cache.layer(Fragile(backend.clone(), ["poll_ready", "call", "poll"])),
        );
        if path == Path::Hit || path.has_stale_entry() {
            for key in 1..=keys {
                assert!(service.clone().oneshot(key).await.is_ok());
            }
        }
        if path.has_stale_entry() {
            advance(10 * SECOND).await;
        }
        let handle = cache.handle();
        Self { backend, prepared: handle.counts(), handle, service }
    }

    fn call(&self, key: u32) -> impl Future<Output = Result> + Send + use<> {
        self.service.clone().oneshot(key)
    }

    fn shared_calls(&self) -> u32 {
        self.handle.counts().shared_calls
    }

    /// Returns how many calls were counted.
    fn counted(&self) -> u64 {
        let sum = |it: &CacheCounts| it.hits + it.stale + it.misses + it.collapsed + it.bypassed;
        sum(&self.handle.counts()) - sum(&self.prepared)
    }

    /// Lets the service respond at once, and returns the response for a key.
    async fn ask_again(&self, key: u32) -> u32 {
        self.backend.does(|_, _| Box::pin(async { Ok(AGAIN) }));
        timeout(SECOND, self.call(key)).await.expect("the key is free").unwrap()
    }
}

async fn tick() {
    advance(TICK).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_holds_nothing() {
    for path in Path::ALL {
        let world = World::new(path, 16).await;
        let (other, number) = (RefCell::new(None), Cell::new(0));
        let polls = CancelHarness::new(|| {
            // What the call before has left behind.
            assert_eq!((world.shared_calls(), world.counted()), (0, 0), "{path:?}");
            number.set(number.get() + 1);
            let key = path.key(number.get());
            world.backend.does(path.script());
            other.replace(path.first(key).map(|key| {
                let mut other = Spawned::new(world.call(key));
                assert!(other.poll().is_pending());
                other
            }));
            world.call(key)
        })
        .run_with(tick, |_| drop(other.take()))
        .await;
        assert_eq!(polls == 1, path == Path::Hit, "{path:?}: {polls}");
        let own = path.counted(&world.handle.counts()) - path.counted(&world.prepared);
        assert_eq!((own, world.counted()), (1, 1), "{path:?}");
        // An older response was given before the call has ended. Nobody tries twice in a second.
        sleep(SECOND).await;
        assert_eq!(world.shared_calls(), 0, "{path:?}");
        for number in 1..number.get() {
            let is_fresh = world.ask_again(path.key(number)).await == AGAIN;
            assert_eq!(is_fresh, path != Path::Hit, "{path:?}");
        }
        world.ask_again(path.key(number.get())).await;
    }
}

/// Lets the n-th run of a code panic, in a call and in one that comes before it.
///
/// Returns `false` if there is no such run.
async fn panics_at(path: Path, code: &'static str, n: u32) -> bool {
    let world = World::new(path, 1).await;
    let key = path.key(1);
    world.backend.does(path.script());
    armed::arm(code, n);
    let mut calls = Vec::new();
    for key in path.first(key).into_iter().chain([key]) {
        calls.push(tokio::spawn(world.call(key)));
        settle().await;
    }
    let hangs = path.first(key) == Some(OF_ANOTHER);
    let hanging = hangs.then(|| calls.remove(0));
    let results = timeout(10 * SECOND, join_all(calls)).await.expect("all calls end");
    if let Some(call) = hanging {
        call.abort();
    }
    // A call goes on after an older response was given.
    sleep(SECOND).await;
    let has_panicked = !armed::disarm();
    let harmed = results.iter().filter(|result| !matches!(result, Ok(Ok(_)))).count();
    // In one path, the service panics too.
    assert!(harmed <= usize::from(has_panicked) + usize::from(path == Path::JoinsInVain));
    let ended = results.iter().filter(|result| result.is_ok()).count() as u64;
    let most = results.len() as u64;
    assert!((ended..=most).contains(&world.counted()), "{} of {ended}", world.counted());
    assert_eq!(world.shared_calls(), 0);
    world.ask_again(key).await;
    has_panicked
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_any_code_of_the_user_frees_the_key_and_harms_one_caller() {
    for code in CODES {
        let mut panics = 0;
        for path in Path::ALL {
            for n in 1.. {
                println!("{code} in {path:?}, run {n}");
                if !panics_at(path, code, n).await {
                    break;
                }
                panics += 1;
            }
        }
        assert!(panics > 0, "{code} was not run");
    }
}
