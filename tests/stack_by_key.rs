//! Tests of a stack for each key.

use std::{
    cell::Cell,
    collections::BTreeMap,
    future::pending,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    thread,
    time::Duration,
};

use buttress::{
    BoxError, CarryRejection, Error, Stack,
    bulkhead::BulkheadLayer,
    circuit_breaker::{CircuitBreakerLayer, State},
    retry::{Budget, ReplayClones, RetryLayer},
    stack::{KeyedStack, ServiceOf, StandardStack},
    testing::{
        Flaky, Step,
        task::{Spawned, SpawnedService},
    },
};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt, layer::layer_fn, service_fn};

const SECOND: Duration = Duration::from_secs(1);
/// More slots than retries, and fewer than the calls of a test.
const SLOTS: u32 = 16;

/// The behavior of the host of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Work,
    Fail,
    Hang,
}
use Does::{Fail, Hang, Work};

/// A request: its host, and the behavior of the host.
type Request = (u64, Does);
type ByHost<St = StandardStack<ReplayClones>> = KeyedStack<u64, fn(&Request) -> u64, St>;

fn host(request: &Request) -> u64 {
    request.0
}

/// A client that can be sent to another thread.
trait Client:
    Service<Request, Response = u64, Error = io::Error, Future: Send> + Clone + Send + 'static
{
}

impl<S> Client for S where
    S: Service<Request, Response = u64, Error = io::Error, Future: Send> + Clone + Send + 'static
{
}

/// The client for all hosts. It counts the requests for each host.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Sent {
    fn to(&self, host: u64) -> u32 {
        self.0.lock().unwrap().get(&host).copied().unwrap_or(0)
    }

    fn client(&self) -> impl Client + use<> {
        let sent = self.clone();
        service_fn(move |(host, does): Request| {
            *sent.0.lock().unwrap().entry(host).or_default() += 1;
            async move {
                match does {
                    Work => Ok(host),
                    Fail => Err(io::ErrorKind::ConnectionReset.into()),
                    Hang => pending().await,
                }
            }
        })
    }
}

fn client() -> impl Client {
    Sent::default().client()
}

fn template() -> StandardStack<ReplayClones> {
    let bulkhead = BulkheadLayer::builder().max_concurrent(SLOTS).build().unwrap();
    Stack::standard(ReplayClones).bulkhead(bulkhead)
}

fn by_host(max_keys: usize) -> ByHost {
    let template = template();
    let host: fn(&Request) -> u64 = host;
    Stack::by_key(host, move |_| template.fresh()).max_keys(max_keys).build().unwrap()
}

fn state(hosts: &ByHost, host: u64) -> Option<State> {
    hosts.get(&host).and_then(|stack| stack.circuit_breaker_handle()).map(|breaker| breaker.state())
}

fn in_flight(hosts: &ByHost, host: u64) -> Option<u32> {
    hosts.get(&host).and_then(|stack| stack.bulkhead_handle()).map(|handle| handle.in_flight())
}

/// Starts a call, which waits for its host.
fn started<S: Service<Request>>(service: S, host: u64) -> Spawned<S::Future> {
    let mut service = SpawnedService::new(service);
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    let mut call = service.call((host, Hang));
    assert!(call.poll().is_pending());
    call
}

// ===== separate state =====

#[tokio::test(start_paused = true)]
async fn a_dead_key_takes_no_retry_of_others() {
    let (hosts, sent) = (by_host(10), Sent::default());
    let service = hosts.service(sent.client());
    for _ in 0..100 {
        assert!(service.clone().oneshot((1, Fail)).await.is_err());
    }
    assert_eq!(state(&hosts, 1), Some(State::Open));
    // The budget of another host pays for all three retries of a call.
    assert!(service.clone().oneshot((2, Fail)).await.is_err());
    assert_eq!((sent.to(2), state(&hosts, 2)), (4, Some(State::Closed)));
    assert_eq!(service.oneshot((2, Work)).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_key_takes_no_slot_of_others() {
    let hosts = by_host(10);
    let service = hosts.service(client());
    let _hung: Vec<_> = (0..SLOTS).map(|_| started(service.clone(), 1)).collect();
    let error = service.clone().oneshot((1, Work)).await.unwrap_err();
    assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some("bulkhead_full"));
    assert_eq!(service.oneshot((2, Work)).await.unwrap(), 2);
    assert_eq!((in_flight(&hosts, 1), in_flight(&hosts, 2)), (Some(SLOTS), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn clones_and_services_share_the_stacks() {
    let hosts = by_host(10);
    let (first, second) = (hosts.service(client()), hosts.clone().service(client()));
    let _hung: Vec<_> = (0..SLOTS)
        .map(|number| {
            let service = if number % 2 == 0 { &first } else { &second };
            started(service.clone(), 1)
        })
        .collect();
    for service in [first, second] {
        assert!(service.oneshot((1, Work)).await.is_err());
    }
    assert_eq!(hosts.keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn clones_of_one_stack_share_its_state_over_all_keys() {
    let stack = template();
    let shared = stack.clone();
    let hosts = Stack::by_key(host, move |_| shared.clone()).build().unwrap();
    let service = hosts.service(client());
    let _hung: Vec<_> = (0..SLOTS).map(|n| started(service.clone(), n.into())).collect();
    assert_eq!(stack.bulkhead_handle().unwrap().in_flight(), SLOTS);
    assert!(service.oneshot((99, Work)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn one_layer_can_be_shared() {
    let (template, budget) = (template(), Budget::builder().ratio(0.0).floor(5).build().unwrap());
    let pays = budget.clone();
    let hosts = Stack::by_key(host, move |_| {
        let retry = RetryLayer::builder(ReplayClones).budget(pays.clone()).build();
        template.fresh().retry(retry.expect("valid settings"))
    })
    .build()
    .unwrap();
    let service = hosts.service(client());
    for host in 0..10 {
        assert!(service.clone().oneshot((host, Fail)).await.is_err());
    }
    assert_eq!(budget.balance(), 0.0);
    hosts.for_each(|_, stack| assert_eq!(stack.retry_budget().map(Budget::balance), Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn a_shared_layer_keeps_no_stack_in_memory() {
    // Closures that share a whole stack, or only its bulkhead.
    let (stack, bulkhead) = (template(), BulkheadLayer::new());
    let (whole, slots) = (stack.clone(), bulkhead.clone());
    let makes: [Box<dyn Fn() -> StandardStack<ReplayClones> + Send + Sync>; 2] =
        [Box::new(move || whole.clone()), Box::new(move || template().bulkhead(slots.clone()))];
    stack.circuit_breaker_handle().unwrap().force_open();
    for make in makes {
        let hosts = Stack::by_key(host, move |_| make()).max_keys(100).idle(SECOND);
        let hosts = hosts.build().unwrap();
        let service = hosts.service(client());
        let hung = service.clone().call((1, Hang));
        let mut hung = Spawned::new(hung);
        let _ = hung.poll();
        for foreign in 10..1_000 {
            let _ = service.clone().oneshot((foreign, Work)).await;
        }
        // The first stack has the shared layers.
        assert!(hosts.keys() <= 101, "{}", hosts.keys());
        advance(2 * SECOND).await;
        let _ = service.clone().oneshot((10, Work)).await;
        assert!(hosts.keys() <= 2, "{}", hosts.keys());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_in_a_shared_bulkhead_makes_no_other_stack_outlive_an_open_one() {
    let (template, bulkhead) = (template(), BulkheadLayer::new());
    let shared = bulkhead.clone();
    let key: fn(&Request) -> u64 = host;
    let hosts = Stack::by_key(key, move |_| template.fresh().bulkhead(shared.clone()));
    let hosts = hosts.max_keys(100).build().unwrap();
    let service = hosts.service(client());
    for _ in 0..30 {
        let _ = service.clone().oneshot((1, Fail)).await;
    }
    let _hung = started(service.clone(), 2);
    for foreign in 10..400 {
        let _ = service.clone().oneshot((foreign, Work)).await;
    }
    assert_eq!((state(&hosts, 1), bulkhead.handle().in_flight()), (Some(State::Open), 1));
}

#[test]
fn handles_are_found_in_every_slot() {
    let (breaker, bulkhead) = (CircuitBreakerLayer::new(), BulkheadLayer::new());
    let stack = Stack::new().circuit_breaker(Some(breaker.clone())).bulkhead(Some(bulkhead));
    stack.circuit_breaker_handle().unwrap().force_open();
    assert_eq!(breaker.handle().state(), State::ForcedOpen);
    assert_eq!(stack.bulkhead_handle().unwrap().limit(), 256);
    assert!(stack.retry_budget().is_none());

    let queue = BulkheadLayer::builder().max_concurrent(3).queue(1, SECOND).build().unwrap();
    let stack = Stack::standard(ReplayClones).bulkhead(queue);
    assert_eq!(stack.bulkhead_handle().unwrap().limit(), 3);
    assert_eq!(stack.retry_budget().unwrap().balance(), 10.0);

    let none = Stack::new()
        .circuit_breaker(None::<CircuitBreakerLayer>)
        .bulkhead(None::<BulkheadLayer>)
        .retry(None::<RetryLayer<ReplayClones>>);
    assert!(none.circuit_breaker_handle().is_none() && none.bulkhead_handle().is_none());
    assert!(none.retry_budget().is_none() && Stack::new().bulkhead_handle().is_none());
    let keyed = CircuitBreakerLayer::builder().keyed_fn(host).build().unwrap();
    assert!(Stack::new().circuit_breaker(keyed).circuit_breaker_handle().is_none());
}

// ===== bounded =====

/// Few and many keys, and those around which the map of the keys is built in another way.
const SIZES: [usize; 5] = [4, 100, 1_024, 4_095, 4_096];

#[tokio::test(start_paused = true)]
async fn idle_stacks_are_evicted_before_open_and_busy_ones() {
    for most in SIZES {
        let hosts = by_host(most);
        let service = hosts.service(client());
        for _ in 0..30 {
            let _ = service.clone().oneshot((1, Fail)).await;
        }
        assert_eq!(state(&hosts, 1), Some(State::Open));
        let busy = started(service.clone(), 2);
        assert_eq!(service.clone().oneshot((3, Work)).await.unwrap(), 3);
        for foreign in 10..10 + 3 * most as u64 {
            assert_eq!(service.clone().oneshot((foreign, Work)).await.unwrap(), foreign);
        }
        assert_eq!(hosts.keys(), most);
        assert_eq!(state(&hosts, 1), Some(State::Open), "of {most}");
        assert_eq!(in_flight(&hosts, 2), Some(1), "of {most}");
        assert_eq!(state(&hosts, 3), None, "of {most}");
        // Without its call, the stack is as idle as the others.
        drop(busy);
        for foreign in 100_000..100_000 + 3 * most as u64 {
            let _ = service.clone().oneshot((foreign, Work)).await;
        }
        assert_eq!(in_flight(&hosts, 2), None, "of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_is_forced_open_is_never_evicted() {
    let hosts = by_host(2);
    let service = hosts.service(client());
    let forced = 0..5;
    for host in forced.clone() {
        let _ = service.clone().oneshot((host, Work)).await;
        hosts.get(&host).unwrap().circuit_breaker_handle().unwrap().force_open();
    }
    for foreign in 10..100 {
        let _ = service.clone().oneshot((foreign, Work)).await;
    }
    advance(3_600 * SECOND).await;
    let _ = service.clone().oneshot((100, Work)).await;
    for host in forced {
        assert_eq!(state(&hosts, host), Some(State::ForcedOpen));
    }
}

#[tokio::test(start_paused = true)]
async fn callers_with_hanging_keys_reset_no_key_in_regular_use() {
    let hosts = by_host(100);
    let service = hosts.service(client());
    for _ in 0..30 {
        let _ = service.clone().oneshot((1, Fail)).await;
    }
    let opened = hosts.get(&1).unwrap().circuit_breaker_handle().unwrap();
    // Most of the stacks are busy with hostile calls, to which ever more hosts are added.
    let _hung: Vec<_> = (1_000..1_200)
        .map(|hostile| {
            let hung = started(service.clone(), hostile);
            assert!(Spawned::new(service.clone().oneshot((1, Work))).poll().is_ready());
            hung
        })
        .collect();
    assert_eq!(hosts.get(&1).unwrap().circuit_breaker_handle().unwrap().state(), State::Open);
    assert_eq!(opened.snapshot().opened(), 1);
    assert_eq!(hosts.keys(), 100);
}

#[tokio::test(start_paused = true)]
async fn breakers_that_open_in_a_row_reset_no_open_one() {
    for most in [1_000, 5_000] {
        let hosts = by_host(most);
        let service = hosts.service(client());
        let regular = 0..20;
        for host in regular.clone() {
            for _ in 0..30 {
                let _ = service.clone().oneshot((host, Fail)).await;
            }
        }
        // All other stacks belong to foreign hosts, of which a fifth fails and is used no more.
        for foreign in 10_000..10_000 + most as u64 {
            let _ = service.clone().oneshot((foreign, Work)).await;
        }
        for foreign in 1_000..1_000 + most as u64 / 5 {
            let calls = (0..20).map(|_| service.clone().call((foreign, Fail)));
            for mut call in calls.map(Spawned::new).collect::<Vec<_>>() {
                let _ = call.poll();
            }
        }
        for foreign in 20_000..20_000 + 2 * most as u64 {
            let _ = service.clone().oneshot((foreign, Work)).await;
        }
        let open = regular.filter(|host| state(&hosts, *host) == Some(State::Open));
        assert_eq!(open.count(), 20, "of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_keeps_no_stack_busy() {
    let hosts = by_host(100);
    let service = hosts.service(client());
    for _ in 0..30 {
        let _ = service.clone().oneshot((1, Fail)).await;
    }
    for foreign in 10..109 {
        let _ = service.clone().oneshot((foreign, Work)).await;
    }
    let mut foreign = 1_000..1_400;
    hosts.for_each(|_, _| {
        for host in foreign.by_ref() {
            assert!(Spawned::new(service.clone().oneshot((host, Work))).poll().is_ready());
        }
    });
    assert_eq!(state(&hosts, 1), Some(State::Open));
}

#[tokio::test(start_paused = true)]
async fn a_busy_key_never_has_two_stacks_while_others_are_idle() {
    let hosts = by_host(10);
    let service = hosts.service(client());
    let _hung: Vec<_> = (0..SLOTS).map(|_| started(service.clone(), 1)).collect();
    for foreign in 10..1_000 {
        let _ = service.clone().oneshot((foreign, Work)).await;
    }
    // Neither the number of other keys nor time gives the key another sixteen slots.
    advance(3 * SECOND).await;
    assert!(service.clone().oneshot((1, Work)).await.is_err());
    assert_eq!(in_flight(&hosts, 1), Some(SLOTS));
}

#[tokio::test(start_paused = true)]
async fn an_unused_stack_is_evicted_and_a_busy_one_is_not() {
    let hosts = {
        let stack = Stack::new().bulkhead(BulkheadLayer::new());
        Stack::by_key(host, move |_| stack.fresh()).idle(SECOND).build().unwrap()
    };
    let service = hosts.service(client());
    let busy = started(service.clone(), 1);
    let _ = service.clone().oneshot((2, Work)).await;
    for _ in 0..10 {
        advance(SECOND).await;
        let _ = service.clone().oneshot((3, Work)).await;
    }
    assert_eq!((hosts.get(&1).is_some(), hosts.get(&2).is_some()), (true, false));
    drop(busy);
    for _ in 0..10 {
        advance(SECOND).await;
        let _ = service.clone().oneshot((3, Work)).await;
    }
    assert_eq!((hosts.get(&1).is_some(), hosts.keys()), (false, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_outlives_the_stack_of_its_key() {
    let hosts = by_host(2);
    let flaky = Flaky::new([Step::RespondWhenReleased(Ok(1))], || Ok::<u64, io::Error>(2));
    let inner = flaky.handle();
    let service = hosts.service::<_, Request, _>(flaky);
    let mut call = started(service.clone(), 1);
    // More busy keys than half of them, so that busy ones are evicted too.
    let _ = (10..40).map(|host| started(hosts.service(client()), host)).collect::<Vec<_>>();
    let _hung: Vec<_> = (50..90).map(|host| started(hosts.service(client()), host)).collect();
    assert!(hosts.get(&1).is_none());
    drop((service, hosts));
    inner.release();
    assert!(matches!(call.poll(), Poll::Ready(Ok(1))));
}

#[tokio::test(start_paused = true)]
async fn a_finished_call_is_no_longer_in_flight_even_if_its_future_is_kept() {
    let hosts = by_host(4);
    let service = hosts.service(client());
    let mut kept = Spawned::new(service.clone().call((1, Work)));
    assert!(kept.poll().is_ready());
    for foreign in 10..100 {
        let _ = service.clone().oneshot((foreign, Work)).await;
    }
    assert!(hosts.get(&1).is_none());
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_dropped_leave_nothing_in_flight() {
    let hosts = by_host(4);
    let service = hosts.service(client());
    let hung: Vec<_> = (0..SLOTS).map(|_| started(service.clone(), 1)).collect();
    assert_eq!(in_flight(&hosts, 1), Some(SLOTS));
    drop(hung);
    assert_eq!(in_flight(&hosts, 1), Some(0));
    for foreign in 10..100 {
        let _ = service.clone().oneshot((foreign, Work)).await;
    }
    assert!(hosts.get(&1).is_none());
}

// ===== the closure =====

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_leaves_nothing() {
    let (template, runs) = (template(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&runs);
    let hosts = Stack::by_key(host, move |host| {
        assert!(counted.fetch_add(1, SeqCst) > 2 || *host != 1, "panic of user code");
        template.fresh()
    })
    .max_keys(2)
    .build()
    .unwrap();
    let service = hosts.service(client());
    for _ in 0..3 {
        let mut service = service.clone();
        let call = AssertUnwindSafe(|| drop(service.call((1, Work))));
        assert!(catch_unwind(call).is_err());
        assert_eq!(hosts.keys(), 0);
    }
    assert_eq!(service.clone().oneshot((1, Work)).await.unwrap(), 1);
    assert_eq!((service.oneshot((1, Work)).await.unwrap(), runs.load(SeqCst)), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_closure_may_use_the_stacks() {
    static HOSTS: OnceLock<ByHost> = OnceLock::new();
    let template = template();
    let key: fn(&Request) -> u64 = host;
    let hosts = Stack::by_key(key, move |host| {
        let hosts = HOSTS.get().unwrap();
        let mut listed = 0;
        hosts.for_each(|_, _| listed += 1);
        assert_eq!((listed, hosts.keys()), (hosts.keys(), listed));
        assert!(hosts.get(host).is_none());
        if *host < 5 {
            // The stack of a host is made during the first call to another one.
            let call = hosts.service(client()).oneshot((host + 1, Work));
            assert!(Spawned::new(call).poll().is_ready());
        }
        template.fresh()
    });
    HOSTS.set(hosts.max_keys(3).build().unwrap()).unwrap();
    let hosts = HOSTS.get().unwrap();
    assert_eq!(hosts.service(client()).oneshot((1, Work)).await.unwrap(), 1);
    assert_eq!(hosts.keys(), 3);
}

type Hook = OnceLock<Box<dyn Fn() + Send + Sync>>;

/// A layer that runs a closure when its last clone is dropped.
#[derive(Clone)]
struct RunsOnDrop(#[expect(dead_code)] Arc<OnDrop>);

struct OnDrop(&'static Hook, Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.get().unwrap()();
        self.1.fetch_add(1, SeqCst);
    }
}

impl<S> Layer<S> for RunsOnDrop {
    type Service = S;

    fn layer(&self, inner: S) -> S {
        inner
    }
}

#[tokio::test(start_paused = true)]
async fn first_calls_at_the_same_time_use_one_stack() {
    static HOOK: Hook = OnceLock::new();
    const RACERS: usize = 4;
    let (made, dropped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, drops) = (Arc::clone(&made), Arc::clone(&dropped));
    let (barrier, template) = (Barrier::new(RACERS), template());
    let hosts = Stack::by_key(host, move |_| {
        counted.fetch_add(1, SeqCst);
        // All callers are in the closure at the same time, so no lock is held.
        barrier.wait();
        template.fresh().around_call(RunsOnDrop(Arc::new(OnDrop(&HOOK, Arc::clone(&drops)))))
    })
    .build()
    .unwrap();
    let used = hosts.clone();
    let hook = move || {
        used.for_each(|_, _| {});
        assert!(used.keys() < 2);
    };
    assert!(HOOK.set(Box::new(hook)).is_ok());
    let service = hosts.service(client());
    let calls: Vec<_> = thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                let mut service = service.clone();
                scope.spawn(move || service.call((1, Hang)))
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let mut calls: Vec<_> = calls.into_iter().map(Spawned::new).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    assert_eq!((made.load(SeqCst), dropped.load(SeqCst)), (RACERS, RACERS - 1));
    let mut slots = Vec::new();
    hosts.for_each(|host, stack| {
        slots.push((*host, stack.bulkhead_handle().unwrap().in_flight()));
    });
    assert_eq!(slots, [(1, RACERS as u32)]);
}

#[tokio::test(start_paused = true)]
async fn an_evicted_stack_is_dropped_outside_of_the_lock() {
    static HOOK: Hook = OnceLock::new();
    let (template, dropped) = (template(), Arc::<AtomicUsize>::default());
    let drops = Arc::clone(&dropped);
    let hosts = Stack::by_key(host, move |_| {
        template.fresh().around_call(RunsOnDrop(Arc::new(OnDrop(&HOOK, Arc::clone(&drops)))))
    })
    .max_keys(2)
    .idle(SECOND)
    .build()
    .unwrap();
    let used = hosts.clone();
    let hook = move || {
        used.for_each(|_, _| {});
        _ = used.keys();
    };
    assert!(HOOK.set(Box::new(hook)).is_ok());
    let service = hosts.service(client());
    for host in 0..10 {
        assert_eq!(service.clone().oneshot((host, Work)).await.unwrap(), host);
    }
    assert_eq!(dropped.load(SeqCst), 8, "evicted by other keys");
    advance(SECOND).await;
    assert_eq!((hosts.keys(), dropped.load(SeqCst)), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn for_each_lists_each_key_once_and_clones_none() {
    #[derive(PartialEq, Eq, Hash)]
    struct NotClone(u64);
    let template = template();
    let hosts = Stack::by_key(|request: &Request| NotClone(request.0), move |_| template.fresh());
    let hosts = hosts.build().unwrap();
    let service = hosts.service(client());
    for host in (0..200).chain(0..200) {
        let _ = service.clone().oneshot((host, Work)).await;
    }
    let mut listed = Vec::new();
    hosts.for_each(|key, stack| {
        // The closure may use the stacks, because no lock is held.
        assert!(hosts.get(key).is_some());
        assert_eq!(stack.bulkhead_handle().unwrap().in_flight(), 0);
        listed.push(key.0);
    });
    listed.sort_unstable();
    assert!(listed.into_iter().eq(0..200));
}

// ===== around a client =====

#[tokio::test(start_paused = true)]
async fn a_call_waits_in_its_future_and_the_total_timeout_includes_it() {
    let bulkhead = BulkheadLayer::builder().max_concurrent(1).backpressure().build().unwrap();
    let template = Stack::new().total_timeout(SECOND).bulkhead(bulkhead);
    let hosts = Stack::by_key(host, move |_| template.fresh()).build().unwrap();
    let service = hosts.service(client());
    let began = Instant::now();
    let hung = tokio::spawn(service.clone().oneshot((1, Hang)));
    sleep(SECOND / 2).await;
    let waits = service.clone().oneshot((1, Hang));
    let other = service.oneshot((2, Work));
    assert_eq!((other.await.unwrap(), began.elapsed()), (2, SECOND / 2));
    let error = waits.await.unwrap_err();
    assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some("timed_out"));
    assert_eq!((hung.await.unwrap().is_err(), began.elapsed()), (true, SECOND * 3 / 2));
}

#[tokio::test(start_paused = true)]
async fn a_total_timeout_starts_at_the_call() {
    let template = Stack::new().total_timeout(SECOND);
    let hosts = Stack::by_key(host, move |_| template.fresh()).build().unwrap();
    let call = hosts.service(client()).call((1, Hang));
    advance(SECOND / 2).await;
    let polled = Instant::now();
    let error = call.await.unwrap_err();
    assert_eq!(error.rejection().map(|rejection| rejection.kind()), Some("timed_out"));
    assert_eq!(polled.elapsed(), SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn it_is_always_ready_and_waits_for_the_client_in_its_future() {
    let flaky = Flaky::new([Step::Unready], || Ok::<u64, io::Error>(7));
    let inner = flaky.handle();
    let mut service = SpawnedService::new(by_host(2).service::<_, Request, _>(flaky));
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    let mut call = service.call((1, Work));
    assert!(call.poll().is_pending());
    inner.set_ready();
    assert!(call.is_woken());
    assert!(matches!(call.poll(), Poll::Ready(Ok(7))));
    assert_eq!(inner.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn errors_name_the_key_only_if_it_is_described() {
    for described in [false, true] {
        let template = template();
        let hosts = Stack::by_key(host, move |_| template.fresh());
        let hosts =
            if described { hosts.describe_fn(|host| format!("host {host}")) } else { hosts };
        let hosts = hosts.build().unwrap();
        let service = hosts.service(client());
        let _ = service.clone().oneshot((7, Work)).await;
        hosts.get(&7).unwrap().circuit_breaker_handle().unwrap().force_open();
        let error = service.oneshot((7, Work)).await.unwrap_err();
        let expected = match described {
            false => "circuit_breaker: the circuit is open",
            true => "circuit_breaker (host 7): the circuit is open",
        };
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.rejection().unwrap().name(), "circuit_breaker");
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_around_a_client_in_three_ways() {
    let hosts = by_host(10);
    let error: Error<io::Error> = hosts.service(client()).oneshot((1, Fail)).await.unwrap_err();
    assert!(error.rejection().is_none());
    let error: BoxError = hosts.boxed(client()).oneshot((1, Fail)).await.unwrap_err();
    assert!(error.is::<io::Error>());
    let inner = client().map_err(Error::Service);
    let error: Error<io::Error> = hosts.layer(inner).oneshot((1, Fail)).await.unwrap_err();
    assert!(error.rejection().is_none());
    assert_eq!(hosts.keys(), 1);
    // All three count as calls of one breaker.
    let breaker = hosts.get(&1).unwrap().circuit_breaker_handle().unwrap();
    assert_eq!(breaker.snapshot().failures(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_stack_by_key_goes_into_an_outer_stack() {
    let hosts = by_host(10);
    let inner = hosts.service(client());
    let outer = Stack::new().total_timeout(SECOND).layer(inner);
    assert_eq!(outer.clone().oneshot((1, Work)).await.unwrap(), 1);
    assert!(outer.oneshot((1, Hang)).await.is_err());
    assert_eq!(in_flight(&hosts, 1), Some(0));
}

#[tokio::test(start_paused = true)]
async fn it_wraps_a_clone_of_the_client_once_for_each_key() {
    #[derive(Clone)]
    struct Counted(#[expect(dead_code)] Arc<()>);
    impl Service<Request> for Counted {
        type Response = ();
        type Error = io::Error;
        type Future = std::future::Ready<Result<(), io::Error>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request) -> Self::Future {
            std::future::ready(Ok(()))
        }
    }
    let hosts = by_host(4);
    let counted = Arc::new(());
    let mut service = hosts.service::<_, Request, _>(Counted(Arc::clone(&counted)));
    let clones = |service: &mut ServiceOf<ByHost, Counted, io::Error>, host| {
        assert!(Spawned::new(service.call((host, Work))).poll().is_ready());
        Arc::strong_count(&counted)
    };
    let one = clones(&mut service, 1);
    assert_eq!(clones(&mut service, 1), one);
    assert!(clones(&mut service, 2) > one);
    let all = (3..100).map(|host| clones(&mut service, host)).max();
    assert!(all < Some(4 * one), "the clones are bounded like the keys");
    drop(service);
    assert_eq!(Arc::strong_count(&counted), 1, "the stacks do not keep the client");
}

#[test]
fn services_are_send_sync_and_clone_and_their_futures_are_send() {
    fn check<S>(service: S)
    where
        S: Service<Request, Error = Error<io::Error>> + Send + Sync + Clone + std::fmt::Debug,
        S::Future: Send + std::fmt::Debug,
    {
        let mut service = service;
        let _ = format!("{service:?} {:?}", service.call((1, Work)));
    }
    // The key need not be `Clone`.
    let flaky = Flaky::new([], || Ok::<u64, io::Error>(1));
    check(by_host(2).service::<_, Request, _>(flaky));
    // A client that is not `Sync` can be sent.
    fn send<T: Send>(value: T) -> T {
        value
    }
    let cell = Cell::new(1_u64);
    let not_sync = service_fn(move |_: Request| std::future::ready(Ok::<_, io::Error>(cell.get())));
    send(by_host(2).service(not_sync));
    let hosts = by_host(2);
    send(hosts.clone());
    assert!(format!("{hosts:?}").starts_with("KeyedStack(Shared { key: "));
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_the_user_may_be_around_each_stack() {
    let hosts = Stack::by_key(host, |_| Stack::new().around_call(layer_fn(|inner| inner)));
    let service = hosts.build().unwrap().service(client());
    assert_eq!(service.oneshot((1, Work)).await.unwrap(), 1);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_stack_is_busy_until_the_bodies_of_its_responses_have_ended() {
    use buttress::http::{HttpStack, by_authority};
    use http::{Request, Response};

    let template: HttpStack = Stack::standard_http();
    let hosts = Stack::by_key(by_authority::<String>, move |_| template.fresh());
    let hosts = hosts.max_keys(4).build().unwrap();
    let service = hosts.service(service_fn(|_: Request<String>| async {
        Ok::<_, io::Error>(Response::new("body".to_owned()))
    }));
    let get = |host: &str| Request::get(format!("http://{host}/")).body(String::new()).unwrap();
    let response = service.clone().oneshot(get("Busy.example:80")).await.unwrap();
    let others = || async {
        for foreign in 0..20 {
            let _ = service.clone().oneshot(get(&format!("{foreign}.example"))).await;
        }
    };
    others().await;
    assert!(hosts.get("busy.example").is_some());
    drop(response);
    others().await;
    assert!(hosts.get("busy.example").is_none());
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn the_limit_of_a_server_is_its_own_in_stacks_that_are_made_later() {
    use std::convert::Infallible;

    use buttress::http::{HttpServerLayer, ResponseBody};
    use bytes::Bytes;
    use http::{HeaderValue, Request, Response};
    use http_body_util::Empty;

    type Body = Empty<Bytes>;

    // A limit that ends all calls is a sign of a hang, and the limit of a caller is not.
    for (left, opens) in [(None, true), (Some("900"), false)] {
        let template = Stack::new().circuit_breaker(CircuitBreakerLayer::new());
        let tenants = Stack::by_key(|_: &Request<Body>| (), move |_| template.fresh());
        let tenants = tenants.build().unwrap();
        let server = HttpServerLayer::builder_around(tenants.clone()).limit(SECOND);
        let server = server.build().unwrap().layer(service_fn(|_: Request<Body>| {
            pending::<Result<Response<ResponseBody<Body>>, Infallible>>()
        }));
        let state = || {
            let breaker = tenants.get(&()).and_then(|stack| stack.circuit_breaker_handle());
            breaker.map(|breaker| breaker.state())
        };
        for _ in 0..60 {
            for _ in 0..3 {
                let mut request = Request::new(Body::new());
                if let Some(left) = left {
                    let left = HeaderValue::from_static(left);
                    request.headers_mut().insert("x-envoy-expected-rq-timeout-ms", left);
                }
                tokio::spawn(server.clone().oneshot(request));
            }
            sleep(SECOND).await;
            if state() == Some(State::Open) {
                break;
            }
        }
        assert_eq!(state() == Some(State::Open), opens, "{left:?}");
    }
}
