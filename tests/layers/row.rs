//! A row of the list of layers.

use std::{any::Any, task::Poll, time::Duration};

use buttress::{
    Classify, Error,
    bulkhead::BulkheadHandle,
    circuit_breaker::{
        CircuitBreakerBuilder, CircuitBreakerHandle, CircuitBreakerLayer, KeyedCircuitBreakerLayer,
        State,
    },
    fallback::FallbackHandle,
    retry::Budget,
    testing::{
        Flaky, Step,
        task::{Spawned, SpawnedService},
    },
};
use tokio::runtime::{self, Handle, Runtime};
use tower::{Layer, Service, ServiceExt, util::Oneshot};

use super::{
    TICK,
    user::{CountedReplay, Request, UserCode},
};

pub(crate) type Text = &'static str;
pub(crate) type Failure = Error<Text>;
pub(crate) type Client = Flaky<Text, Failure>;

/// A layer, and what a suite must know of it.
pub(crate) struct Row<L> {
    pub(crate) layer: L,
    /// The layer always reports `Ready`, and waits in its future.
    pub(crate) always_ready: bool,
    /// The user code that the layer runs.
    pub(crate) runs: &'static [UserCode],
    /// The layer ends a hanging call after more than this number of polls, a [`TICK`] apart.
    pub(crate) ends_a_hang_after: Option<usize>,
    pub(crate) retries: Option<Retries>,
    /// The obstacles of its calls.
    pub(crate) obstacles: Vec<Obstacle>,
    /// The reason why its calls allocate, if they do.
    pub(crate) allocates: Option<&'static str>,
    idle: Vec<Check>,
}

type Check = Box<dyn Fn() + Send>;

/// The budget that pays for retries.
pub(crate) struct Retries {
    pub(crate) budget: Budget,
    /// Counts the attempts, if some do not reach the inner service.
    pub(crate) replay: Option<CountedReplay>,
}

/// An obstacle of calls, which lasts until the value returned by `hold` is dropped.
pub(crate) struct Obstacle {
    pub(crate) name: Text,
    pub(crate) effect: Effect,
    pub(crate) hold: Box<dyn Fn() -> Box<dyn Any>>,
}

/// The effect of an obstacle on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Waits,
    /// The call is rejected at once, with a rejection of this kind.
    Rejects(Text),
}

impl<L> Row<L> {
    pub(crate) fn new(layer: L) -> Self {
        Self {
            layer,
            always_ready: false,
            runs: &[],
            ends_a_hang_after: None,
            retries: None,
            obstacles: Vec::new(),
            allocates: None,
            idle: Vec::new(),
        }
    }

    pub(crate) fn always_ready(mut self) -> Self {
        self.always_ready = true;
        self
    }

    pub(crate) fn runs(mut self, code: &'static [UserCode]) -> Self {
        self.runs = code;
        self
    }

    pub(crate) fn ends_a_hang_after(mut self, polls: usize) -> Self {
        self.ends_a_hang_after = Some(polls);
        self
    }

    pub(crate) fn retries(mut self, budget: Budget, replay: Option<CountedReplay>) -> Self {
        self.retries = Some(Retries { budget, replay });
        self
    }

    pub(crate) fn allocates(mut self, why: &'static str) -> Self {
        self.allocates = Some(why);
        self
    }

    /// Adds a check that must hold whenever no call is in flight.
    pub(crate) fn when_idle(mut self, check: impl Fn() + Send + 'static) -> Self {
        self.idle.push(Box::new(check));
        self
    }

    pub(crate) fn obstacle<H: 'static>(
        mut self,
        name: Text,
        effect: Effect,
        hold: impl Fn() -> H + 'static,
    ) -> Self {
        let hold = Box::new(move || Box::new(hold()) as Box<dyn Any>);
        self.obstacles.push(Obstacle { name, effect, hold });
        self
    }

    pub(crate) fn slots(self, bulkhead: BulkheadHandle) -> Self {
        self.when_idle(move || {
            assert_eq!((bulkhead.in_flight(), bulkhead.queued()), (0, 0), "slots and queue");
        })
    }

    /// Adds an obstacle: the only slot of the bulkhead is taken.
    pub(crate) fn full<B>(self, effect: Effect, bulkhead: B) -> Self
    where
        B: Layer<Client, Service: Service<Text> + 'static> + 'static,
    {
        self.obstacle("full", effect, move || taken(&bulkhead))
    }

    /// Adds a breaker, which stays half-open if it is. If it is closed, it can be forced open.
    pub(crate) fn breaker(self, breaker: CircuitBreakerHandle, forced_open: Effect) -> Self {
        let (watched, state) = (breaker.clone(), breaker.state());
        let row = self.when_idle(move || {
            assert_eq!(watched.snapshot().probes(), 0, "probes");
            if state == State::HalfOpen {
                assert_eq!(watched.state(), state);
            }
        });
        match state {
            State::Closed => row.obstacle("forced open", forced_open, move || {
                breaker.force_open();
                ResetOnDrop(breaker.clone())
            }),
            _ => row,
        }
    }

    /// Adds an obstacle: the service is switched off, and the fallback has no response.
    pub(crate) fn switch(self, fallback: FallbackHandle) -> Self {
        self.obstacle("switched off", Effect::Rejects("switched_off"), move || {
            fallback.switch_off();
            OnWhenDropped(fallback.clone())
        })
    }

    pub(crate) fn assert_idle(&self) {
        self.idle.iter().for_each(|check| check());
    }

    /// Takes the checks of [`assert_idle`](Self::assert_idle), for use without the row.
    pub(crate) fn take_checks(&mut self) -> Vec<Check> {
        std::mem::take(&mut self.idle)
    }
}

impl<F, C> Row<KeyedCircuitBreakerLayer<u64, F, C>> {
    pub(crate) fn keyed_breaker<R: Request>(self) -> Self
    where
        F: Fn(&R) -> u64 + Send + Sync + 'static,
        C: Classify<(), Failure> + Send + Sync + 'static,
    {
        let (watched, forced) = (self.layer.clone(), self.layer.clone());
        self.when_idle(move || {
            if let Some(breaker) = watched.handle(&R::sample().key()) {
                assert_eq!(breaker.snapshot().probes(), 0, "probes");
            }
        })
        .obstacle("forced open", Effect::Rejects("circuit_open"), move || {
            let service = forced.layer(Flaky::new([], || Ok::<(), Failure>(())));
            assert!(Spawned::new(service.oneshot(R::sample())).poll().is_ready());
            let breaker = forced.handle(&R::sample().key()).expect("the key of a call");
            breaker.force_open();
            ResetOnDrop(breaker)
        })
    }
}

struct ResetOnDrop(CircuitBreakerHandle);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        self.0.reset();
    }
}

struct OnWhenDropped(FallbackHandle);

impl Drop for OnWhenDropped {
    fn drop(&mut self) {
        self.0.switch_on();
    }
}

/// Readies a service of the layer. It holds the slot or the probe until it is dropped.
pub(crate) fn taken<L>(layer: &L) -> SpawnedService<L::Service, Text>
where
    L: Layer<Client, Service: Service<Text>>,
{
    let hung = layer.layer(Flaky::new([Step::Hang], || Ok("response")));
    let mut service = SpawnedService::new(hung);
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    service
}

/// Makes a call that must wait.
pub(crate) fn waiting<L>(layer: &L) -> Spawned<Oneshot<L::Service, Text>>
where
    L: Layer<Client, Service: Service<Text>>,
{
    let service = layer.layer(Flaky::new([], || Ok("response")));
    let mut call = Spawned::new(service.oneshot("request"));
    assert!(call.poll().is_pending());
    call
}

fn trip<C>(layer: &CircuitBreakerLayer<C>)
where
    C: Classify<Text, Failure> + 'static,
{
    for _ in 0..1_000 {
        if layer.handle().state() == State::Open {
            return;
        }
        let down = layer.layer(Flaky::new([], || Err::<Text, _>(Failure::Service("down"))));
        assert!(Spawned::new(down.oneshot("request")).poll().is_ready());
    }
    panic!("the breaker does not trip");
}

/// Trips the breaker, and resets it when the returned value is dropped.
pub(crate) fn opened<C>(layer: &CircuitBreakerLayer<C>) -> impl Sized + use<C>
where
    C: Classify<Text, Failure> + 'static,
{
    trip(layer);
    ResetOnDrop(layer.handle())
}

/// Makes the breaker half-open, and takes its only probe.
pub(crate) fn without_a_probe<C>(layer: &CircuitBreakerLayer<C>) -> impl Sized + use<C>
where
    C: Classify<Text, Failure> + 'static,
{
    trip(layer);
    let reset = ResetOnDrop(layer.handle());
    pass(Duration::from_secs(2));
    let probe = taken(layer);
    assert_eq!(layer.handle().snapshot().probes(), 1);
    (probe, reset)
}

/// Builds a breaker that is half-open, with all its probes left.
pub(crate) fn half_open<C>(builder: CircuitBreakerBuilder<C>) -> CircuitBreakerLayer<C>
where
    C: Classify<Text, Failure> + 'static,
{
    // A row may also be made outside a runtime, where the clock cannot be moved.
    let runtime = Handle::try_current().is_err().then(paused_runtime);
    let _entered = runtime.as_ref().map(Runtime::enter);
    let layer = builder.consecutive_failures(1).open_for(TICK).build().unwrap();
    trip(&layer);
    pass(2 * TICK);
    drop(taken(&layer));
    assert_eq!(layer.handle().state(), State::HalfOpen);
    layer
}

fn paused_runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Lets time pass on the paused clock of the test.
fn pass(time: Duration) {
    // The first poll moves the clock. The second is only for other tasks.
    assert!(Spawned::new(tokio::time::advance(time)).poll().is_pending());
}
