//! A call that falls back holds nothing after it was dropped at any poll, or has panicked in any
//! code of the user.

#[path = "support/armed.rs"]
mod armed;

use std::{
    future::ready,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use buttress::{
    Deadline, Error, Fault, Outcome,
    bulkhead::{BulkheadHandle, BulkheadLayer},
    fallback::{self, FallbackHandle, FallbackLayer},
    retry::replay_fn,
    testing::{Flaky, FlakyHandle, Step, cancel::CancelHarness, task::Spawned},
};
use futures::future::BoxFuture;
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};

use self::armed::Fragile;

type Text = &'static str;
type Failure = Error<Text>;

const TICK: Duration = Duration::from_millis(10);
/// The time of a caller, of which a tenth is for the fallback.
const TIME: Duration = Duration::from_secs(1);

/// The reason for which a call falls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Fails,
    /// The service hangs until the time that is reserved for the fallback.
    Hangs,
    Off,
}

impl Reason {
    const ALL: [Self; 3] = [Self::Fails, Self::Hangs, Self::Off];

    fn step(self) -> Step<Text, Failure> {
        match self {
            Self::Fails => Step::RespondAfter(2 * TICK, Err(Error::Service("broken"))),
            Self::Hangs | Self::Off => Step::Hang,
        }
    }
}

/// The result of a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Used,
    Failed,
    Declined,
}

/// A service of one call at once.
struct Client {
    handle: FlakyHandle<Text, Failure>,
    bulkhead: BulkheadHandle,
}

impl Client {
    fn new(codes: [Text; 3]) -> (Self, BoxCloneSyncService<Text, Text, Failure>) {
        let service = Flaky::new([], || Ok("response"));
        let bulkhead = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
        let client = Self { handle: service.handle(), bulkhead: bulkhead.handle() };
        (client, BoxCloneSyncService::new(bulkhead.layer(Fragile(service, codes))))
    }

    fn assert_idle(&self) {
        assert_eq!((self.bulkhead.in_flight(), self.handle.in_flight()), (0, 0));
        assert_eq!(self.handle.violations(), []);
    }
}

/// A service with a fallback, and what its calls can hold.
struct World {
    service: BoxCloneSyncService<Text, Text, Failure>,
    handle: FallbackHandle,
    clients: Vec<Client>,
    /// Its clones are kept of requests, or held by a fallback that runs.
    held: Arc<()>,
    /// The number of these clones without a call.
    at_rest: usize,
    end: End,
}

/// Puts a fallback around a client.
macro_rules! world {
    ($source:expr, $others:expr, $held:expr, $end:expr) => {{
        let (client, service) = Client::new(["poll_ready", "call", "poll"]);
        let layer = FallbackLayer::builder($source).when_fn(|_| {
            armed::run("when_fn");
            true
        });
        let layer = layer.classify_fn(|result: Result<&Text, &Failure>| {
            armed::run("classify_fn");
            match result {
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Failure(Fault::Transient),
            }
        });
        let layer = layer.build().unwrap();
        World {
            handle: layer.handle(),
            service: BoxCloneSyncService::new(layer.layer(service)),
            clients: $others.into_iter().chain([client]).collect(),
            at_rest: Arc::strong_count(&$held),
            held: $held,
            end: $end,
        }
    }};
}

fn closure<F>(end: End, respond: F) -> World
where
    F: Fn(Arc<()>) -> BoxFuture<'static, Option<Text>> + Send + Sync + 'static,
{
    let held = Arc::new(());
    let kept = Arc::clone(&held);
    let keep = move |_: &Text| {
        armed::run("keep");
        Arc::clone(&kept)
    };
    let source = fallback::from_fn(keep, move |held, _| {
        armed::run("respond");
        let response = respond(held);
        async {
            armed::run("poll of the response");
            response.await
        }
    });
    world!(source, None, held, end)
}

fn another_service(end: End, response: Result<Text, Failure>) -> World {
    let codes = ["poll_ready of the other", "call of the other", "poll of the other"];
    let (client, service) = Client::new(codes);
    for _ in 0..200 {
        client.handle.push(Step::RespondAfter(3 * TICK, response.clone()));
    }
    let replay = replay_fn(|request: &Text| {
        armed::run("replay");
        Some(*request)
    });
    let held = Arc::new(());
    world!(fallback::service(replay, service), Some(client), held, end)
}

/// Returns a service with each kind of fallback.
fn worlds() -> [World; 6] {
    let after = |time: Duration, response| {
        move |held| -> BoxFuture<'static, _> {
            Box::pin(async move {
                sleep(time).await;
                drop::<Arc<()>>(held);
                response
            })
        }
    };
    [
        closure(End::Used, |_| Box::pin(ready(Some("fallback")))),
        closure(End::Used, after(3 * TICK, Some("fallback"))),
        closure(End::Declined, after(3 * TICK, None)),
        // Longer than its limit.
        closure(End::Failed, after(TIME * 3 / 2, Some("fallback"))),
        another_service(End::Used, Ok("fallback")),
        another_service(End::Failed, Err(Error::Service("other"))),
    ]
}

impl World {
    /// Prepares a call that falls back.
    async fn call(&self, reason: Reason) -> Result<Text, Failure> {
        self.clients.last().unwrap().handle.push(reason.step());
        let call = self.service.clone().oneshot("request");
        Deadline::scope(Deadline::after(TIME), call).await.expect("in time")
    }

    fn assert_idle(&self) {
        self.clients.iter().for_each(Client::assert_idle);
        assert_eq!(Arc::strong_count(&self.held), self.at_rest, "what a call held");
    }

    /// Returns how many fallbacks were used, have failed and have declined.
    fn counts(&self) -> [u64; 3] {
        let used = self.handle.used() + self.handle.used_while_off();
        [used, self.handle.failed(), self.handle.declined()]
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_poll_holds_nothing() {
    for reason in Reason::ALL {
        for (number, world) in worlds().into_iter().enumerate() {
            if reason == Reason::Off {
                world.handle.switch_off();
            }
            let polls = CancelHarness::new(|| {
                assert_eq!(world.counts(), [0; 3], "{reason:?} {number}");
                world.call(reason)
            })
            .run_with(|| advance(TICK), |_| world.assert_idle())
            .await;
            assert!(polls > 2 || number == 0 && reason == Reason::Off, "{reason:?} {number}");
            let mut expected = [0; 3];
            expected[world.end as usize] = 1;
            assert_eq!(world.counts(), expected, "{reason:?} {number}");
        }
    }
}

/// Lets the n-th run of a code panic in a call.
///
/// Returns `false` if there is no such run.
async fn panics_at(world: &World, reason: Reason, code: Text, n: u32) -> bool {
    if reason == Reason::Off {
        world.handle.switch_off();
    }
    armed::arm(code, n);
    let mut call = Spawned::new(world.call(reason));
    let panicked = loop {
        match catch_unwind(AssertUnwindSafe(|| call.poll())) {
            Ok(Poll::Pending) => advance(TICK).await,
            Ok(Poll::Ready(_)) => break false,
            Err(_) => break true,
        }
    };
    drop(call);
    assert_eq!(!armed::disarm(), panicked);
    world.assert_idle();
    panicked
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_any_code_of_the_user_holds_nothing_and_is_counted() {
    let of_the_fallback = [
        "respond",
        "poll of the response",
        "poll_ready of the other",
        "call of the other",
        "poll of the other",
    ];
    let others = ["poll_ready", "call", "poll", "when_fn", "classify_fn", "keep", "replay"];
    for code in of_the_fallback.into_iter().chain(others) {
        let mut panics = 0;
        for (reason, n) in Reason::ALL.into_iter().flat_map(|it| [(it, 1), (it, 2)]) {
            for world in worlds() {
                if !panics_at(&world, reason, code, n).await {
                    continue;
                }
                panics += 1;
                let mut expected = [0, u64::from(of_the_fallback.contains(&code)), 0];
                assert_eq!(world.counts(), expected, "{code} {reason:?}");
                world.handle.switch_on();
                let result = world.call(Reason::Fails).await;
                assert_eq!(result.is_ok(), world.end == End::Used, "{code} {reason:?}");
                expected[world.end as usize] += 1;
                assert_eq!(world.counts(), expected, "{code} {reason:?}");
            }
        }
        assert!(panics > 0, "{code} was not run");
    }
}
