//! Tests of lost responses around the idempotency layer, and of bodies with faults.
#![cfg(feature = "http")]

mod capture;

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use buttress::{
    BoxError, Error, Stack,
    chaos::{ChaosHandle, ChaosLayer},
    circuit_breaker::{CircuitBreakerLayer, State},
    http::{
        HttpClientLayer, ReplaySafe, SetIdempotencyKeyLayer,
        chaos::{BodyChaosBuilder, BodyChaosLayer, ChaosBody, ChaosBodyError},
    },
    idempotency::{IdempotencyLayer, store::MemoryStore},
    retry::{Backoff, RetryLayer},
    telemetry::{Registry, field},
    testing::task::{CountingWaker, Spawned},
};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::{Instant, advance};
use tower::{
    Layer, Service, ServiceExt, layer::util::Identity, service_fn, util::BoxCloneSyncService,
};
use tracing::{Instrument, info_span};

use self::capture::Capture;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

type Boxed = Response<UnsyncBoxBody<Bytes, BoxError>>;
type Failure = Error<io::Error>;
type Bank = BoxCloneSyncService<Request<Full<Bytes>>, Boxed, Failure>;

// Lost responses.

/// Makes 100 payments at a bank, while the responses of half of the attempts are lost.
async fn pay(bank: Bank) {
    let chaos = ChaosLayer::builder().lost_responses(0.5).build().unwrap();
    chaos.handle().arm_for(HOUR).unwrap();
    let backoff = Backoff::constant(Duration::from_millis(1)).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(20).backoff(backoff);
    let stack = Stack::new()
        .retry(retry.without_budget().build().unwrap())
        .attempt_timeout(SECOND)
        .http()
        .layer(chaos.layer(bank));
    let client = SetIdempotencyKeyLayer::new().layer(stack);
    for _ in 0..100 {
        let request = Request::post("/pay").body(Full::from("amount=42")).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let paid = response.into_body().collect().await.map_err(BoxError::from).unwrap();
        assert_eq!(paid.to_bytes(), "paid");
    }
    assert!(chaos.handle().injected() > 50);
}

fn boxed<S, B>(bank: S) -> Bank
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Failure>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(bank.map_response(|response: Response<B>| {
        response.map(|body| UnsyncBoxBody::new(body.map_err(Into::into)))
    }))
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_of_an_idempotent_operation_has_one_effect() {
    fn charging<B>(
        charges: &Arc<AtomicUsize>,
    ) -> impl Service<
        Request<B>,
        Response = Response<Full<Bytes>>,
        Error = Failure,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static {
        let charges = Arc::clone(charges);
        service_fn(move |_: Request<B>| {
            charges.fetch_add(1, Ordering::Relaxed);
            async { Ok(Response::new(Full::from("paid"))) }
        })
    }
    let charges = Arc::new(AtomicUsize::new(0));
    let guard = IdempotencyLayer::http(MemoryStore::new()).single_tenant().build().unwrap();
    pay(boxed(guard.layer(charging(&charges)))).await;
    assert_eq!(charges.swap(0, Ordering::Relaxed), 100);
    // Without the layer, the same faults charge twice.
    pay(boxed(charging(&charges))).await;
    assert!(charges.load(Ordering::Relaxed) > 150);
}

// Bodies.

/// A body of frames of one byte. Each is ready at once.
struct Frames(usize);

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.checked_sub(1).map(|left| {
            self.0 = left;
            Ok(Frame::data(Bytes::from_static(b"x")))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0 as u64)
    }
}

/// Returns the body of a response with this number of frames.
async fn body(layer: &BodyChaosLayer, frames: usize) -> ChaosBody<Frames> {
    let service =
        service_fn(move |(): ()| async move { Ok::<_, io::Error>(Response::new(Frames(frames))) });
    layer.layer(service).oneshot(()).await.unwrap().into_body()
}

fn armed(builder: BodyChaosBuilder) -> (BodyChaosLayer, ChaosHandle) {
    let layer = builder.build().unwrap();
    let handle = layer.handle();
    handle.arm_for(HOUR).unwrap();
    (layer, handle)
}

/// Reads one frame, which must be there.
fn read(body: &mut ChaosBody<Frames>) -> Result<Option<usize>, ChaosBodyError<io::Error>> {
    match pin!(body.frame()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => Ok(frame.transpose()?.map(|frame| frame.into_data().unwrap().len())),
        Poll::Pending => panic!("no frame yet"),
    }
}

/// Reads all frames, and returns their length.
async fn read_to_end(body: &mut ChaosBody<Frames>) -> Result<usize, ChaosBodyError<io::Error>> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.into_data().unwrap().len();
    }
    Ok(length)
}

#[tokio::test(start_paused = true)]
async fn a_body_is_cut_off_after_its_first_frame() {
    let (layer, handle) = armed(BodyChaosLayer::builder().cuts(1.0));
    for frames in [2, 9] {
        let mut body = body(&layer, frames).await;
        assert_eq!(body.size_hint().exact(), Some(frames as u64));
        assert!(matches!(read(&mut body), Ok(Some(1))));
        assert!(!body.is_end_stream(), "the reader has to see the cut");
        assert!(matches!(read(&mut body), Err(ChaosBodyError::Cut)));
        assert!(matches!(read(&mut body), Ok(None)));
        assert!(body.is_end_stream());
    }
    assert_eq!(handle.injected(), 2);
}

/// A reader that knows the length does not ask for more once it has the whole.
#[tokio::test(start_paused = true)]
async fn a_body_whose_first_frame_is_the_whole_is_cut_off_instead_of_it() {
    let (layer, handle) = armed(BodyChaosLayer::builder().cuts(1.0));
    let mut cut = body(&layer, 1).await;
    assert_eq!((cut.size_hint().exact(), cut.is_end_stream()), (Some(1), false));
    let mut frame = Spawned::new(async move { (read_to_end(&mut cut).await, cut) });
    // The head is sent meanwhile.
    assert!(frame.poll().is_pending() && frame.is_woken());
    let Poll::Ready((read, cut)) = frame.poll() else { panic!("it hangs") };
    assert!(matches!(read, Err(ChaosBodyError::Cut)) && cut.is_end_stream());
    assert_eq!(handle.injected(), 1);

    let mut whole = body(&layer, 1).await;
    handle.disarm();
    assert!(matches!(read_to_end(&mut whole).await, Ok(1)));
    assert_eq!(handle.injected(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_has_no_fault() {
    for builder in [
        BodyChaosLayer::builder().cuts(1.0),
        BodyChaosLayer::builder().stalls(1.0),
        BodyChaosLayer::builder().trickles(1.0, SECOND),
    ] {
        let (layer, handle) = armed(builder);
        let mut body = body(&layer, 0).await;
        assert!(body.is_end_stream() && matches!(read(&mut body), Ok(None)));
        assert_eq!(handle.injected(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_stalls_until_it_is_dropped_or_the_layer_is_disarmed() {
    let (layer, handle) = armed(BodyChaosLayer::builder().stalls(1.0));
    let (mut first, mut second) = (body(&layer, 2).await, body(&layer, 2).await);
    assert!(matches!((read(&mut first), read(&mut second)), (Ok(Some(1)), Ok(Some(1)))));
    let (mut first, mut second) = (Spawned::new(first.collect()), Spawned::new(second.collect()));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    advance(HOUR / 2).await;
    assert!(first.poll().is_pending());
    assert_eq!(handle.hung(), 2);
    assert_eq!(first.cancel().holders(), 0, "wakers kept");
    assert_eq!(handle.hung(), 1);
    handle.disarm();
    assert!(second.is_woken());
    let Poll::Ready(Ok(rest)) = second.poll() else { panic!("it stalls on") };
    assert_eq!((rest.to_bytes(), handle.hung()), (Bytes::from("x"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_while_it_stalls_is_at_its_end_after_the_stall() {
    let (layer, handle) = armed(BodyChaosLayer::builder().stalls(1.0));
    let mut stalled = body(&layer, 1).await;
    assert!(matches!(read(&mut stalled), Ok(Some(1))));
    assert!(!stalled.is_end_stream(), "the reader has to see the stall");
    let mut frame = Spawned::new(async move { (stalled.frame().await.is_none(), stalled) });
    assert!(frame.poll().is_pending());
    handle.disarm();
    let Poll::Ready((has_ended, stalled)) = frame.poll() else { panic!("it stalls on") };
    assert!(has_ended && stalled.is_end_stream());
    assert_eq!(handle.hung(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_above_the_limit_of_stalling_bodies_has_no_fault() {
    let (layer, handle) = armed(BodyChaosLayer::builder().stalls(1.0).max_hung(1));
    let stalled = body(&layer, 2).await;
    assert_eq!(body(&layer, 2).await.collect().await.unwrap().to_bytes(), "xx");
    assert_eq!((handle.hung(), handle.injected()), (1, 0));
    drop(stalled);
    let mut again = Spawned::new(body(&layer, 2).await.collect());
    assert!(again.poll().is_pending());
    assert_eq!((handle.hung(), handle.injected()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_fault_of_a_body_ends_with_its_window() {
    let window = || [Duration::ZERO..SECOND];
    for builder in [
        BodyChaosLayer::builder().stalls(1.0),
        BodyChaosLayer::builder().trickles(1.0, HOUR),
        BodyChaosLayer::builder().cuts(1.0),
    ] {
        let (layer, handle) = armed(builder.windows(window()));
        let (one, mut other) = (body(&layer, 3).await, body(&layer, 3).await);
        let mut one = Spawned::new(one.collect());
        let is_cut = matches!(one.poll(), Poll::Ready(Err(ChaosBodyError::Cut)));
        assert!(is_cut || matches!(one.poll(), Poll::Pending));
        assert_eq!(handle.injected(), 1);
        advance(SECOND).await;
        assert!(is_cut || one.is_woken() && matches!(one.poll(), Poll::Ready(Ok(_))));
        for _ in 0..3 {
            assert!(matches!(read(&mut other), Ok(Some(1))));
        }
        assert!(matches!(read(&mut other), Ok(None)));
        assert!(handle.is_armed());
        let late = body(&layer, 3).await;
        assert_eq!(late.collect().await.unwrap().to_bytes(), "xxx");
        assert_eq!((handle.injected(), handle.hung()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_stalls_for_no_longer_than_the_layer_is_armed() {
    let layer = BodyChaosLayer::builder().stalls(1.0).build().unwrap();
    layer.handle().arm_for(SECOND).unwrap();
    let began = Instant::now();
    assert_eq!(body(&layer, 3).await.collect().await.unwrap().to_bytes(), "xxx");
    assert_eq!(began.elapsed(), SECOND);
    assert!(!layer.handle().is_armed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_pauses_before_each_frame() {
    let (layer, handle) = armed(BodyChaosLayer::builder().trickles(1.0, SECOND));
    let began = Instant::now();
    assert_eq!(body(&layer, 5).await.collect().await.unwrap().to_bytes(), "xxxxx");
    // There is a pause before the end too.
    assert_eq!(began.elapsed(), 6 * SECOND);

    let mut trickles = Spawned::new(body(&layer, 5).await.collect());
    assert!(trickles.poll().is_pending());
    advance(SECOND).await;
    assert!(trickles.is_woken() && trickles.poll().is_pending());
    handle.disarm();
    assert!(trickles.is_woken() && trickles.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_has_not_begun_does_not_begin_after_the_disarming() {
    let (layer, handle) = armed(BodyChaosLayer::builder().cuts(1.0));
    let mut before = body(&layer, 3).await;
    assert!(matches!(read(&mut before), Ok(Some(1))));
    let service = service_fn(|(): ()| async {
        tokio::time::sleep(SECOND).await;
        Ok::<_, io::Error>(Response::new(Frames(1)))
    });
    let mut called = Spawned::new(layer.layer(service).oneshot(()));
    assert!(called.poll().is_pending());
    handle.disarm();
    assert_eq!(before.collect().await.unwrap().to_bytes(), "xx");
    advance(SECOND).await;
    let Poll::Ready(Ok(response)) = called.poll() else { panic!("no response") };
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x");
    assert_eq!(handle.injected(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_a_body_counts_when_it_begins_in_the_span_of_its_call() {
    for (builder, reads) in [
        (BodyChaosLayer::builder().cuts(1.0), 1),
        (BodyChaosLayer::builder().stalls(1.0), 1),
        (BodyChaosLayer::builder().trickles(1.0, SECOND), 0),
    ] {
        let (capture, _guard) = Capture::start();
        let (layer, handle) = armed(builder);
        drop(body(&layer, 3).await);
        let mut faulty = body(&layer, 3).instrument(info_span!("of_the_call")).await;
        for _ in 0..reads {
            assert!(matches!(read(&mut faulty), Ok(Some(1))));
        }
        assert_eq!(handle.injected(), 0);
        let mut frame = Spawned::new(faulty.frame());
        for _ in 0..2 {
            assert!(!matches!(frame.poll(), Poll::Ready(Some(Ok(_)))));
            assert_eq!(handle.injected(), 1);
            if !frame.is_woken() {
                break;
            }
        }
        let events = capture.events();
        let injected = events.iter().find(|event| event.name == "fault injected").unwrap();
        assert_eq!(injected.within.as_deref(), Some("of_the_call"));
        assert_eq!(injected.get(field::FAULT_CALL), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn of_each_thousand_bodies_with_data_each_fault_has_exactly_its_share() {
    let (layer, handle) = armed(BodyChaosLayer::builder().cuts(0.3));
    for number in 0..3_000 {
        // Two calls of three have nothing to cut off.
        let service = service_fn(move |(): ()| async move {
            match number % 3 {
                0 => Ok(Response::new(Frames(1))),
                1 => Ok(Response::new(Frames(0))),
                _ => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            }
        });
        if let Ok(response) = layer.layer(service).oneshot(()).await {
            let _ = response.into_body().collect().await;
        }
    }
    assert_eq!(handle.injected(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_stack_sees_the_end_of_a_body_with_a_fault() {
    let late = "idle response body: timed out after 1s";
    let cases = [
        (BodyChaosLayer::builder().cuts(1.0), "the body was cut off by chaos"),
        (BodyChaosLayer::builder().stalls(1.0), late),
        (BodyChaosLayer::builder().trickles(1.0, 2 * SECOND), late),
    ];
    for (builder, expected) in cases {
        let (layer, _) = armed(builder);
        let client = layer.layer(service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, io::Error>(Response::new(Frames(3)))
        }));
        let http = HttpClientLayer::builder().body_idle(SECOND).build().unwrap();
        let client = Stack::new().http_client(http).service(client);
        let response = client.oneshot(Request::default()).await.unwrap();
        let error = BoxError::from(response.into_body().collect().await.unwrap_err());
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_buffer_replaces_a_body_that_was_cut_off() {
    let (layer, handle) = armed(BodyChaosLayer::builder().cuts(0.5));
    let client = layer.layer(service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, io::Error>(Response::new(Frames(3)))
    }));
    let backoff = Backoff::constant(Duration::from_millis(1)).build().unwrap();
    let retry = RetryLayer::builder(ReplaySafe::new()).retries(20).backoff(backoff);
    let http = HttpClientLayer::builder().body_buffer(1 << 10).build().unwrap();
    let stack = Stack::new().retry(retry.without_budget().build().unwrap()).http_client(http);
    let client = stack.service(client);
    for _ in 0..100 {
        let response = client.clone().oneshot(Request::default()).await.unwrap();
        let body = response.into_body().collect().await.map_err(BoxError::from).unwrap();
        assert_eq!(body.to_bytes(), "xxx");
    }
    assert!(handle.injected() > 50, "{}", handle.injected());
}

#[tokio::test(start_paused = true)]
async fn a_cut_loses_the_status_of_a_grpc_call_which_the_breaker_sees() {
    let (layer, _) = armed(BodyChaosLayer::builder().cuts(1.0));
    let client = service_fn(|_: Request<Full<Bytes>>| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let frames = [Frame::data(Bytes::from_static(b"order")), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, io::Error>)));
        Ok::<_, io::Error>(
            Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
        )
    });
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(1).build().unwrap();
    let state = breaker.handle();
    let stack = Stack::new().circuit_breaker(breaker).http().service(layer.layer(client));
    let response = stack.oneshot(Request::default()).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(state.state(), State::Closed);
    let error = body.frame().await.unwrap().map_err(BoxError::from).unwrap_err();
    assert_eq!(error.to_string(), "the body was cut off by chaos");
    assert_eq!(state.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn each_fault_of_a_body_counts_once_and_in_its_own_series() {
    for (builder, fault) in [
        (BodyChaosLayer::builder().cuts(1.0), "body_cut"),
        (BodyChaosLayer::builder().stalls(1.0), "body_stall"),
        (BodyChaosLayer::builder().trickles(1.0, SECOND), "body_trickle"),
    ] {
        let registry = Registry::new();
        let layer = builder.build().unwrap().register(&registry);
        layer.handle().arm_for(SECOND).unwrap();
        let _ = body(&layer, 2).await.collect().await;
        let families = registry.gather();
        let family = families.iter().find(|it| it.instrument.name == "buttress.chaos.faults");
        let counted = family.unwrap().series.iter().filter(|it| it.value.as_number() != 0.0);
        let counted: Vec<_> = counted.map(|it| it.attribute(field::FAULT).unwrap()).collect();
        assert_eq!(counted, [fault]);
    }
}

#[test]
fn a_disarmed_layer_allocates_nothing_for_a_body() {
    let layer = BodyChaosLayer::builder().cuts(1.0).build().unwrap();
    let service = layer.layer(service_fn(|(): ()| async {
        Ok::<_, io::Error>(Response::new(Full::<Bytes>::from("x")))
    }));
    let read = || {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(response)) = pin!(service.clone().oneshot(())).poll(&mut cx) else {
            panic!("no response");
        };
        let mut body = response.into_body();
        assert!(pin!(body.frame()).poll(&mut cx).is_ready());
    };
    read();
    assert_eq!(measure(read).count_total, 0);
}

/// Returns what is seen of each poll of a body that is ready at every other poll.
async fn polls<L, B>(layer: L) -> Vec<String>
where
    L: Layer<BoxCloneSyncService<(), Response<Slow>, io::Error>>,
    L::Service: Service<(), Response = Response<B>, Error = io::Error>,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let service = service_fn(|()| async { Ok(Response::new(Slow(Frames(9), false))) });
    let service = layer.layer(BoxCloneSyncService::new(service));
    let mut body = pin!(service.oneshot(()).await.unwrap().into_body());
    let waker = CountingWaker::new();
    let mut seen = Vec::new();
    for _ in 0..25 {
        let polled = body.as_mut().poll_frame(&mut Context::from_waker(&waker.waker()));
        let (is_end, hint) = (body.is_end_stream(), body.size_hint().exact());
        seen.push(format!("{polled:?} {} {is_end} {hint:?}", waker.wakes()));
    }
    seen
}

/// A body that wakes its reader once before each frame.
struct Slow(Frames, bool);

impl Body for Slow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.1 = !self.1;
        if self.1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[tokio::test(start_paused = true)]
async fn a_disarmed_layer_changes_nothing_of_a_body() {
    for builder in [
        BodyChaosLayer::builder().cuts(1.0),
        BodyChaosLayer::builder().stalls(1.0),
        BodyChaosLayer::builder().trickles(1.0, SECOND),
    ] {
        let expected = polls(Identity::new()).await;
        assert_eq!(polls(builder.build().unwrap()).await, expected);
    }
}
