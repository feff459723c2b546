//! Tests of replayed bodies through the public API.
#![cfg(feature = "http")]

use std::{
    collections::VecDeque,
    error::Error as StdError,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use buttress::{
    Error, Fault, Outcome, RetryHint, Stack,
    http::{
        ClientKey, ReplayBody, ReplayBodyLayer, ReplaySafe, RequestHead,
        replay::{MakeReplayable, ReplayBodyError, ReplayableBody},
    },
    retry::{Backoff, Jitter, Replay, RetryLayer},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use tokio_test::task::{Spawn, spawn};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

// A scripted body.

enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Error,
    Panic,
    /// Runs while the source is polled, when nothing else has it.
    During(Box<dyn FnOnce() + Send>),
    End,
}

#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    waker: Option<Waker>,
    hint: SizeHint,
    at_end: bool,
    polls: usize,
}

struct Source {
    script: Arc<Mutex<Script>>,
    dropped: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Teller {
    script: Arc<Mutex<Script>>,
    dropped: Arc<AtomicBool>,
}

impl Teller {
    fn give(&self, step: Step) {
        let waker = {
            let mut script = self.script.lock().unwrap();
            script.steps.push_back(step);
            script.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn data(&self, data: impl Into<Bytes>) {
        self.give(Step::Data(data.into()));
    }

    fn during(&self, f: impl FnOnce() + Send + 'static) {
        self.give(Step::During(Box::new(f)));
    }

    fn hint(&self, exact: u64) {
        self.script.lock().unwrap().hint = SizeHint::with_exact(exact);
    }

    fn polls(&self) -> usize {
        self.script.lock().unwrap().polls
    }

    fn dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn source() -> (Source, Teller) {
    let script = Arc::new(Mutex::new(Script::default()));
    let dropped = Arc::new(AtomicBool::new(false));
    let teller = Teller { script: Arc::clone(&script), dropped: Arc::clone(&dropped) };
    (Source { script, dropped }, teller)
}

impl Body for Source {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut script = self.script.lock().unwrap();
        script.polls += 1;
        loop {
            let Some(step) = script.steps.pop_front() else {
                script.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            return Poll::Ready(match step {
                Step::Data(data) => {
                    let len = data.len() as u64;
                    if let Some(exact) = script.hint.exact() {
                        script.hint = SizeHint::with_exact(exact - len);
                    }
                    Some(Ok(Frame::data(data)))
                }
                Step::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                Step::Error => Some(Err(io::Error::other("the disk is gone"))),
                Step::Panic => {
                    drop(script);
                    panic!("the source panics");
                }
                Step::During(f) => {
                    drop(script);
                    f();
                    script = self.script.lock().unwrap();
                    continue;
                }
                Step::End => {
                    script.at_end = true;
                    None
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.script.lock().unwrap().at_end
    }

    fn size_hint(&self) -> SizeHint {
        self.script.lock().unwrap().hint
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

// The result of a poll of a body.

#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Pending,
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Stale,
    SourceFailed(String),
    Failed,
    Gone,
}

fn saw(polled: Poll<Option<Result<Frame<Bytes>, ReplayBodyError>>>) -> Saw {
    match polled {
        Poll::Pending => Saw::Pending,
        Poll::Ready(None) => Saw::End,
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => Saw::Data(data),
            Err(frame) => Saw::Trailers(frame.into_trailers().unwrap()),
        },
        Poll::Ready(Some(Err(error))) => match error {
            ReplayBodyError::Stale => Saw::Stale,
            ReplayBodyError::Source(error) => Saw::SourceFailed(error.to_string()),
            ReplayBodyError::Failed => Saw::Failed,
            ReplayBodyError::Gone => Saw::Gone,
            other => panic!("unknown: {other}"),
        },
    }
}

fn data(data: &'static str) -> Saw {
    Saw::Data(Bytes::from_static(data.as_bytes()))
}

type Attempt = Spawn<ReplayBody<Source>>;

fn poll(attempt: &mut Attempt) -> Saw {
    saw(attempt.enter(|cx, body| body.poll_frame(cx)))
}

fn copy(kept: &ReplayBody<Source>) -> Attempt {
    spawn(kept.copy().expect("it can be copied"))
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("abc"));
    trailers
}

/// Creates a body whose buffered bytes are counted by a layer.
fn in_layer(layer: &ReplayBodyLayer, source: Source) -> ReplayBody<Source> {
    let slot = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&slot);
    let mut service = layer.layer(service_fn(move |request: Request<ReplayBody<Source>>| {
        *seen.lock().unwrap() = Some(request.into_body());
        std::future::ready(Ok::<_, ()>(()))
    }));
    drop(service.call(Request::new(source)));
    let body = slot.lock().unwrap().take();
    body.unwrap()
}

// One attempt after the other.

#[test]
fn an_attempt_sends_what_was_kept_and_then_the_rest() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut first = copy(&kept);
    teller.data("one");
    teller.data("two");
    assert_eq!((poll(&mut first), poll(&mut first)), (data("one"), data("two")));
    assert_eq!(poll(&mut first), Saw::Pending);

    assert!(kept.end_copies());
    let mut second = copy(&kept);
    assert_eq!((poll(&mut second), poll(&mut second)), (data("one"), data("two")));
    assert_eq!(poll(&mut second), Saw::Pending);
    teller.data("three");
    teller.give(Step::Trailers(trailers()));
    teller.give(Step::End);
    assert!(second.is_woken());
    assert_eq!(poll(&mut second), data("three"));
    assert_eq!(poll(&mut second), Saw::Trailers(trailers()));
    assert_eq!(poll(&mut second), Saw::End);
    assert!(teller.dropped(), "a source that has ended is dropped");

    assert!(kept.end_copies());
    let mut last = spawn(kept);
    for expected in [data("one"), data("two"), data("three"), Saw::Trailers(trailers()), Saw::End] {
        assert_eq!(poll(&mut last), expected);
    }
    assert_eq!(poll(&mut last), Saw::End);
    assert_eq!((poll(&mut first), poll(&mut second)), (Saw::Stale, Saw::Stale));
}

#[test]
fn prepare_ends_the_body_before_at_once_and_wakes_it() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut first = copy(&kept);
    assert_eq!(poll(&mut first), Saw::Pending);
    assert!(!first.is_woken());
    assert!(kept.end_copies());
    assert!(first.is_woken());
    teller.give(Step::End);
    let polls = teller.polls();
    assert_eq!((poll(&mut first), poll(&mut first)), (Saw::Stale, Saw::Stale));
    assert_eq!(teller.polls(), polls, "a stale body read on");
    assert!(!first.is_end_stream(), "a stale body looks whole");
    assert_eq!(first.size_hint().exact(), None);
}

#[test]
fn prepare_ends_a_body_that_was_never_polled() {
    let (source, _teller) = source();
    let kept = ReplayBody::new(source);
    let mut first = copy(&kept);
    assert!(kept.end_copies());
    assert_eq!(poll(&mut first), Saw::Stale);
    let mut second = copy(&kept);
    assert_eq!(poll(&mut second), Saw::Pending);
    assert_eq!(poll(&mut first), Saw::Stale);
    assert!(!second.is_woken());
}

#[test]
fn a_copy_that_is_polled_ends_those_before() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let (mut first, mut second) = (copy(&kept), copy(&kept));
    teller.data("one");
    assert_eq!((poll(&mut first), poll(&mut first)), (data("one"), Saw::Pending));
    assert_eq!(poll(&mut second), data("one"));
    assert!(first.is_woken());
    assert_eq!((poll(&mut first), poll(&mut second)), (Saw::Stale, Saw::Pending));
    // The original comes after its copies, even after a copy that was not polled.
    let mut third = copy(&kept);
    let mut original = spawn(kept);
    assert_eq!(poll(&mut original), data("one"));
    assert!(second.is_woken());
    assert_eq!(poll(&mut third), Saw::Stale);
    assert_eq!((poll(&mut second), poll(&mut first)), (Saw::Stale, Saw::Stale));
}

#[test]
fn copies_of_copies_end_with_what_they_were_made_of() {
    let (source, teller) = source();
    let outer = ReplayBody::new(source);
    let inner = outer.copy().unwrap();
    let mut first = copy(&inner);
    teller.data("one");
    assert_eq!((poll(&mut first), poll(&mut first)), (data("one"), Saw::Pending));
    assert!(inner.end_copies());
    assert_eq!(poll(&mut first), Saw::Stale);
    let mut second = copy(&inner);
    assert_eq!(poll(&mut second), data("one"));
    assert!(outer.end_copies());
    assert_eq!(poll(&mut second), Saw::Stale);
    assert!(!inner.end_copies() && inner.copy().is_none());
    assert_eq!(poll(&mut spawn(inner)), Saw::Stale);
    assert_eq!(poll(&mut copy(&outer)), data("one"));
}

#[test]
fn a_body_that_was_polled_is_not_copied() {
    let (source, teller) = source();
    let mut body = spawn(ReplayBody::new(source));
    teller.data("one");
    assert_eq!(poll(&mut body), data("one"));
    assert!(body.copy().is_none() && body.copy_unstarted().is_none() && !body.end_copies());
    assert_eq!(poll(&mut body), Saw::Pending);
}

// While an attempt polls the source.

/// Polls `old` until the end of what it has, and polls `new` while the source is polled.
fn poll_during(
    kept: &ReplayBody<Source>,
    old: &mut Attempt,
    teller: &Teller,
    then: impl FnOnce(&Teller),
) -> (Saw, Arc<Mutex<Attempt>>) {
    assert!(!old.is_woken());
    let new = Arc::new(Mutex::new(copy(kept)));
    let shared = Arc::clone(&new);
    teller.during(move || {
        let mut new = shared.lock().unwrap();
        // The body is pending, and is polled again with another waker.
        assert_eq!(poll(&mut new), Saw::Pending);
        assert_eq!(poll(&mut new), Saw::Pending);
        assert!(!new.is_woken());
    });
    then(teller);
    (poll(old), new)
}

#[test]
fn a_frame_that_a_stale_body_gets_is_not_lost() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut old = copy(&kept);
    let (seen, new) = poll_during(&kept, &mut old, &teller, |teller| teller.data("one"));
    assert_eq!(seen, Saw::Stale);
    let mut new = new.lock().unwrap();
    assert!(new.is_woken());
    assert_eq!((poll(&mut new), poll(&mut new)), (data("one"), Saw::Pending));
    teller.give(Step::End);
    assert!(new.is_woken());
    assert_eq!(poll(&mut new), Saw::End);
}

#[test]
fn a_frame_that_a_stale_body_gets_is_not_lost_past_the_cap() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::builder().max_request_bytes(4).build().unwrap();
    let kept = in_layer(&layer, source);
    let mut old = copy(&kept);
    teller.data("0123");
    assert_eq!((poll(&mut old), poll(&mut old)), (data("0123"), Saw::Pending));
    let new = Arc::new(Mutex::new(copy(&kept)));
    let shared = Arc::clone(&new);
    teller.during(move || {
        assert_eq!(poll(&mut shared.lock().unwrap()), data("0123"));
    });
    teller.data("4567");
    assert_eq!(poll(&mut old), Saw::Stale);
    assert_eq!(layer.buffered(), 8);
    let mut new = new.lock().unwrap();
    assert_eq!((poll(&mut new), poll(&mut new)), (data("4567"), Saw::Pending));
    teller.data("8");
    assert_eq!(poll(&mut new), data("8"));
    assert_eq!(layer.buffered(), 0);
    assert!(!kept.end_copies());
}

#[test]
fn whoever_waits_for_the_source_is_woken_when_there_is_nothing() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut old = copy(&kept);
    let (seen, new) = poll_during(&kept, &mut old, &teller, |_| ());
    assert_eq!(seen, Saw::Stale);
    let mut new = new.lock().unwrap();
    assert!(new.is_woken());
    assert_eq!(poll(&mut new), Saw::Pending);
    teller.data("one");
    assert!(new.is_woken());
    assert_eq!(poll(&mut new), data("one"));
}

#[test]
fn the_end_that_a_stale_body_gets_is_no_end_to_it() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut old = copy(&kept);
    let (seen, new) = poll_during(&kept, &mut old, &teller, |teller| teller.give(Step::End));
    assert_eq!(seen, Saw::Stale);
    let mut new = new.lock().unwrap();
    assert!(new.is_woken());
    assert_eq!(poll(&mut new), Saw::End);
    assert!(!old.is_end_stream() && new.is_end_stream());
}

#[test]
fn the_error_that_a_stale_body_gets_is_for_the_newer() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut old = copy(&kept);
    let (seen, new) = poll_during(&kept, &mut old, &teller, |teller| teller.give(Step::Error));
    assert_eq!(seen, Saw::Stale);
    let mut new = new.lock().unwrap();
    assert!(new.is_woken());
    assert_eq!(poll(&mut new), Saw::SourceFailed("the disk is gone".into()));
    assert_eq!(poll(&mut new), Saw::Failed);
    assert!(!kept.end_copies());
}

#[test]
fn after_a_panic_of_the_source_every_body_fails() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut old = copy(&kept);
    let new = Arc::new(Mutex::new(copy(&kept)));
    let shared = Arc::clone(&new);
    teller.during(move || assert_eq!(poll(&mut shared.lock().unwrap()), Saw::Pending));
    teller.give(Step::Panic);
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut old))).is_err());
    let mut new = new.lock().unwrap();
    assert!(new.is_woken());
    assert_eq!((poll(&mut new), poll(&mut old)), (Saw::Failed, Saw::Stale));
    assert!(!new.is_end_stream() && !kept.is_end_stream());
    assert!(!kept.end_copies());
    assert_eq!(poll(&mut copy(&kept)), Saw::Failed);
    assert!(teller.dropped());
}

#[test]
fn a_source_that_nobody_can_read_any_more_is_dropped() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut old = copy(&kept);
    teller.data("one");
    assert_eq!((poll(&mut old), poll(&mut old)), (data("one"), Saw::Pending));
    assert!(kept.end_copies());
    assert_eq!(layer.buffered(), 3);
    drop(kept);
    // The stale body still exists.
    assert_eq!((layer.buffered(), teller.dropped()), (0, true));
    assert_eq!(poll(&mut old), Saw::Stale);
}

#[test]
fn what_only_a_dropped_attempt_could_send_is_freed() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut old = copy(&kept);
    teller.data("one");
    teller.data("two");
    assert_eq!((poll(&mut old), poll(&mut old)), (data("one"), data("two")));
    assert!(kept.end_copies());
    let mut new = copy(&kept);
    assert_eq!(poll(&mut new), data("one"));
    drop(kept);
    assert_eq!((layer.buffered(), teller.dropped()), (3, false));
    drop(new);
    // The stale body still exists.
    assert_eq!((layer.buffered(), teller.dropped()), (0, true));
    assert_eq!(poll(&mut old), Saw::Stale);
}

#[test]
fn a_source_that_is_out_while_the_last_reader_leaves_is_dropped() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut old = copy(&kept);
    let hook = Mutex::new(Some(kept));
    teller.during(move || {
        let kept = hook.lock().unwrap().take().unwrap();
        assert!(kept.end_copies());
        drop(kept);
    });
    teller.data("one");
    assert_eq!(poll(&mut old), Saw::Stale);
    assert_eq!((layer.buffered(), teller.dropped()), (0, true));
}

/// A task that panics when it is woken.
struct Unwakeable;

impl Wake for Unwakeable {
    fn wake(self: Arc<Self>) {
        panic!("the waker panics");
    }
}

#[test]
fn a_waker_that_panics_does_not_cost_the_source() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut old = kept.copy().unwrap();
    let waker = Waker::from(Arc::new(Unwakeable));
    let polled = Pin::new(&mut old).poll_frame(&mut Context::from_waker(&waker));
    assert_eq!(saw(polled), Saw::Pending);
    let mut new = copy(&kept);
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut new))).is_err());
    assert_eq!(poll(&mut new), Saw::Pending);
    teller.data("one");
    assert!(new.is_woken());
    assert_eq!(poll(&mut new), data("one"));
}

// The frames that are kept.

#[test]
fn nothing_is_kept_of_a_body_that_is_sent_once() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let mut only = spawn(in_layer(&layer, source));
    teller.data("one");
    assert_eq!((poll(&mut only), layer.buffered()), (data("one"), 0));
}

#[test]
fn what_was_kept_is_freed_with_the_original() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut first = copy(&kept);
    teller.data("one");
    teller.data("four");
    assert_eq!((poll(&mut first), poll(&mut first)), (data("one"), data("four")));
    assert_eq!(layer.buffered(), 7);
    assert!(kept.end_copies());
    let mut second = copy(&kept);
    assert_eq!(poll(&mut second), data("one"));
    drop(kept);
    assert_eq!(layer.buffered(), 4, "what the attempt has still to send is kept, and no more");
    assert_eq!((poll(&mut second), layer.buffered()), (data("four"), 0));
    teller.data("more");
    assert_eq!((poll(&mut second), layer.buffered()), (data("more"), 0));
}

#[test]
fn the_original_frees_what_it_sends() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut first = copy(&kept);
    teller.data("one");
    teller.give(Step::Trailers(trailers()));
    assert_eq!((poll(&mut first), poll(&mut first)), (data("one"), Saw::Trailers(trailers())));
    assert_eq!(layer.buffered(), 3 + "checksum".len() + "abc".len());
    assert!(kept.end_copies());
    let mut last = spawn(kept);
    assert_eq!(poll(&mut last), data("one"));
    assert_eq!(layer.buffered(), "checksum".len() + "abc".len());
    assert_eq!((poll(&mut last), layer.buffered()), (Saw::Trailers(trailers()), 0));
}

#[test]
fn past_the_cap_of_a_request_it_is_sent_once_and_whole() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::builder().max_request_bytes(8).build().unwrap();
    let kept = in_layer(&layer, source);
    let mut first = copy(&kept);
    teller.data("01234567");
    assert_eq!((poll(&mut first), layer.buffered()), (Saw::Data("01234567".into()), 8));
    teller.data("8");
    assert_eq!((poll(&mut first), layer.buffered()), (data("8"), 0));
    assert!(!kept.end_copies());
    assert!(kept.copy().is_none() && kept.copy_unstarted().is_none());
    teller.data("9");
    assert_eq!((poll(&mut first), layer.buffered()), (data("9"), 0));
    // A body that cannot be sent disturbs nothing.
    assert_eq!(poll(&mut spawn(kept)), Saw::Gone);
    teller.give(Step::End);
    assert_eq!(poll(&mut first), Saw::End);
}

#[test]
fn past_the_cap_of_all_requests_it_is_sent_once_and_whole() {
    let layer = ReplayBodyLayer::builder().max_request_bytes(8).max_total_bytes(8).build().unwrap();
    let (one, one_teller) = source();
    let (two, two_teller) = source();
    let (one, two) = (in_layer(&layer, one), in_layer(&layer.clone(), two));
    let (mut one_sent, mut two_sent) = (copy(&one), copy(&two));
    one_teller.data("01234");
    two_teller.data("567");
    assert_eq!((poll(&mut one_sent), poll(&mut two_sent)), (data("01234"), data("567")));
    assert_eq!(layer.buffered(), 8);
    two_teller.data("8");
    assert_eq!((poll(&mut two_sent), layer.buffered()), (data("8"), 5));
    assert!(one.end_copies() && !two.end_copies());
}

#[test]
fn a_body_known_to_be_too_long_is_not_kept_at_all() {
    let (source, teller) = source();
    teller.hint((64 << 10) + 1);
    let kept = ReplayBody::new(source);
    assert!(kept.copy().is_none());
    // A copy is still possible while nothing has been read.
    let mut first = spawn(kept.copy_unstarted().unwrap());
    assert_eq!(poll(&mut first), Saw::Pending);
    assert!(kept.end_copies());

    teller.hint(64 << 10);
    let (source, teller) = self::source();
    teller.hint(64 << 10);
    assert!(ReplayBody::new(source).copy().is_some());
}

#[test]
fn tiny_and_empty_frames_do_not_take_room_without_end() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut first = copy(&kept);
    for _ in 0..2_000 {
        teller.data("");
        assert_eq!(poll(&mut first), data(""));
    }
    for _ in 0..1_024 {
        teller.data("x");
        assert_eq!(poll(&mut first), data("x"));
    }
    assert!(kept.end_copies());
    assert_eq!(layer.buffered(), 1_024);
    let mut second = copy(&kept);
    for _ in 0..1_024 {
        assert_eq!(poll(&mut second), data("x"));
    }
    teller.data("x");
    assert_eq!((poll(&mut second), layer.buffered()), (data("x"), 0));
    assert!(!kept.end_copies());
}

#[test]
fn an_unstarted_copy_keeps_nothing_and_is_repeated_only_unread() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut first = spawn(kept.copy_unstarted().unwrap());
    assert_eq!(poll(&mut first), Saw::Pending);
    assert!(kept.end_copies(), "nothing was read");
    assert_eq!(poll(&mut first), Saw::Stale);
    let mut second = spawn(kept.copy_unstarted().unwrap());
    teller.data("one");
    assert_eq!((poll(&mut second), layer.buffered()), (data("one"), 0));
    assert!(!kept.end_copies());
    assert!(kept.copy().is_none() && kept.copy_unstarted().is_none());
    teller.data("two");
    assert_eq!(poll(&mut second), data("two"), "the attempt goes on");
}

#[test]
fn the_account_is_settled_whatever_is_dropped_first() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for sent in 0..3 {
            let (source, teller) = source();
            let layer = ReplayBodyLayer::new();
            let kept = in_layer(&layer, source);
            let mut first = copy(&kept);
            teller.data("one");
            teller.data("two");
            assert_eq!((poll(&mut first), poll(&mut first)), (data("one"), data("two")));
            assert!(kept.end_copies());
            let mut second = copy(&kept);
            for expected in [data("one"), data("two")].into_iter().take(sent) {
                assert_eq!(poll(&mut second), expected);
            }
            assert_eq!(layer.buffered(), 6);
            let mut handles = [Some(spawn(kept)), Some(first), Some(second)];
            for index in order {
                handles[index] = None;
            }
            assert_eq!((layer.buffered(), teller.dropped()), (0, true), "{order:?} {sent}");
        }
    }
}

// The size and the end of a body.

#[test]
fn the_size_is_exact_where_that_of_the_source_is() {
    let (source, teller) = source();
    teller.hint(6);
    let kept = ReplayBody::new(source);
    let mut first = copy(&kept);
    assert_eq!(first.size_hint().exact(), Some(6));
    teller.data("one");
    assert_eq!(poll(&mut first), data("one"));
    let second = copy(&kept);
    assert_eq!((first.size_hint().exact(), second.size_hint().exact()), (Some(3), Some(6)));
}

#[test]
fn the_size_is_exact_when_all_was_kept() {
    let (source, teller) = source();
    let kept = ReplayBody::new(source);
    let mut first = copy(&kept);
    teller.data("one");
    assert_eq!(poll(&mut first), data("one"));
    let hint = kept.size_hint();
    assert_eq!((hint.lower(), hint.upper()), (3, None));
    teller.give(Step::Trailers(trailers()));
    teller.give(Step::End);
    assert_eq!((poll(&mut first), poll(&mut first)), (Saw::Trailers(trailers()), Saw::End));
    assert_eq!(kept.size_hint().exact(), Some(3));
    let mut second = copy(&kept);
    assert!(!second.is_end_stream());
    assert_eq!(poll(&mut second), data("one"));
    assert!(!second.is_end_stream(), "the trailers are still to come");
    assert_eq!(poll(&mut second), Saw::Trailers(trailers()));
    assert!(second.is_end_stream());
    assert_eq!(second.size_hint().exact(), Some(0));
}

#[test]
fn an_empty_body_is_at_its_end_from_the_beginning() {
    let kept = ReplayBody::new(Empty::<Bytes>::new());
    assert!(kept.is_end_stream() && kept.copy().unwrap().is_end_stream());
    assert_eq!(kept.size_hint().exact(), Some(0));
    let (source, _teller) = source();
    assert!(!ReplayBody::new(source).is_end_stream());
}

#[test]
fn an_error_of_the_source_is_given_once_and_not_retried() {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::new();
    let kept = in_layer(&layer, source);
    let mut first = copy(&kept);
    teller.data("one");
    teller.give(Step::Error);
    assert_eq!(poll(&mut first), data("one"));
    assert_eq!(poll(&mut first), Saw::SourceFailed("the disk is gone".into()));
    assert_eq!(poll(&mut first), Saw::Failed);
    assert!(!kept.end_copies());
    assert_eq!(poll(&mut copy(&kept)), Saw::Failed);
    assert_eq!((layer.buffered(), teller.dropped()), (0, true));
    assert!(!kept.is_end_stream());
}

#[test]
fn errors_are_found_in_a_chain_and_told_in_plain_words() {
    let error = ReplayBodyError::Source(Box::new(io::Error::other("the disk is gone")));
    assert_eq!(error.to_string(), "the request body could not be read: the disk is gone");
    assert_eq!(error.source().unwrap().to_string(), "the disk is gone");
    assert!(error.source().unwrap().downcast_ref::<io::Error>().is_some());
    let outer = io::Error::other(error);
    let found = outer.get_ref().unwrap().downcast_ref::<ReplayBodyError>();
    assert!(matches!(found, Some(ReplayBodyError::Source(_))));
    for error in [ReplayBodyError::Stale, ReplayBodyError::Failed, ReplayBodyError::Gone] {
        let told = error.to_string();
        assert!(told.starts_with(char::is_lowercase) && !told.ends_with('.'), "{told}");
    }
}

/// `Send`, but not `Sync`.
struct Unshared(std::cell::Cell<()>);

impl Body for Unshared {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.set(());
        Poll::Ready(None)
    }
}

#[test]
fn bodies_and_policies_are_shared_between_threads() {
    const fn shared<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
    const fn cloned<T: Clone>() {}
    shared::<ReplayBody<Unshared>>();
    shared::<ReplayBodyError>();
    shared::<ReplayBodyLayer>();
    shared::<MakeReplayable<()>>();
    shared::<ReplaySafe>();
    shared::<ClientKey>();
    cloned::<MakeReplayable<()>>();
    cloned::<ReplayBodyLayer>();
    cloned::<ReplaySafe>();
    let kept = ReplayBody::new(Unshared(std::cell::Cell::new(())));
    let copy = kept.copy().unwrap();
    assert_eq!(format!("{kept:?}"), r#"ReplayBody { standing: "kept", .. }"#);
    assert!(kept.end_copies());
    assert_eq!(format!("{copy:?}"), r#"ReplayBody { standing: "stale", .. }"#);
}

// Any frames, in any order of events.

#[derive(Clone, Debug)]
enum Event {
    /// The source has its next frame.
    Give,
    /// The attempt is polled, if it was woken.
    Poll(usize),
    /// Another attempt is made, and polled if `polled`.
    ///
    /// With `during`, this happens while the previous attempt polls the source.
    Again {
        prepared: bool,
        during: bool,
        polled: bool,
    },
    Drop(usize),
    DropKept,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Give),
        8 => (0..4_usize).prop_map(Event::Poll),
        2 => any::<(bool, bool, bool)>().prop_map(|(prepared, during, polled)| Event::Again {
            prepared,
            during,
            polled
        }),
        1 => (0..4_usize).prop_map(Event::Drop),
        1 => Just(Event::DropKept),
    ];
    proptest::collection::vec(event, 0..40)
}

/// An attempt, as its transport sees it.
struct Sent {
    body: Option<Attempt>,
    /// The attempts before were ended first, as a retry does.
    prepared: bool,
    polled: bool,
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: Option<Saw>,
}

impl Sent {
    fn new(body: ReplayBody<Source>, prepared: bool) -> Self {
        let body = Some(spawn(body));
        Self { body, prepared, polled: false, bytes: Vec::new(), trailers: None, end: None }
    }

    /// Polls as an executor does, first and when woken. Returns whether it polled.
    fn poll(&mut self) -> bool {
        let Some(body) = self.body.as_mut().filter(|_| self.end.is_none()) else { return false };
        if self.polled && !body.is_woken() {
            return false;
        }
        self.polled = true;
        loop {
            match poll(body) {
                Saw::Pending => return true,
                Saw::Data(data) => self.bytes.extend_from_slice(&data),
                Saw::Trailers(trailers) => self.trailers = Some(trailers),
                end => {
                    self.end = Some(end);
                    return true;
                }
            }
        }
    }
}

/// The original while it is kept, and the attempts, oldest first.
#[derive(Clone)]
struct Call {
    kept: Arc<Mutex<Option<ReplayBody<Source>>>>,
    attempts: Arc<Mutex<Vec<Arc<Mutex<Sent>>>>>,
}

impl Call {
    fn attempts(&self) -> Vec<Arc<Mutex<Sent>>> {
        self.attempts.lock().unwrap().clone()
    }

    fn again(&self, prepared: bool, polled: bool) {
        let mut kept = self.kept.lock().unwrap();
        let Some(original) = kept.as_ref() else { return };
        let body = if prepared {
            if !original.end_copies() {
                return;
            }
            // A body that can no longer be kept is sent for the last time.
            original.copy().or_else(|| kept.take())
        } else {
            original.copy()
        };
        drop(kept);
        let Some(body) = body else { return };
        let sent = Arc::new(Mutex::new(Sent::new(body, prepared)));
        self.attempts.lock().unwrap().push(Arc::clone(&sent));
        if polled {
            sent.lock().unwrap().poll();
        }
    }
}

fn check(frames: &[Vec<u8>], trailed: bool, cap: usize, events: Vec<Event>) {
    let (source, teller) = source();
    let layer = ReplayBodyLayer::builder().max_request_bytes(cap).build().unwrap();
    let mut steps: VecDeque<Step> =
        frames.iter().map(|frame| Step::Data(Bytes::from(frame.clone()))).collect();
    steps.extend(trailed.then(|| Step::Trailers(trailers())));
    steps.push_back(Step::End);
    let kept = Arc::new(Mutex::new(Some(in_layer(&layer, source))));
    let call = Call { kept, attempts: Arc::default() };
    call.again(false, false);

    for event in events {
        match event {
            Event::Give => {
                if let Some(step) = steps.pop_front() {
                    teller.give(step);
                }
            }
            Event::Poll(index) => {
                if let Some(attempt) = call.attempts().get(index) {
                    attempt.lock().unwrap().poll();
                }
            }
            Event::Again { prepared, during: false, polled } => call.again(prepared, polled),
            Event::Again { prepared, during: true, polled } => {
                let during = call.clone();
                teller.during(move || during.again(prepared, polled));
                // The frames that the previous attempt then gets are not its own any more.
                if let Some(step) = steps.pop_front() {
                    teller.give(step);
                }
                if let Some(attempt) = call.attempts().last() {
                    attempt.lock().unwrap().poll();
                }
            }
            Event::Drop(index) => {
                let attempts = call.attempts();
                // The caller waits for the last attempt.
                if index + 1 < attempts.len() {
                    attempts[index].lock().unwrap().body = None;
                }
            }
            Event::DropKept => drop(call.kept.lock().unwrap().take()),
        }
    }
    for step in steps {
        teller.give(step);
    }
    // Only woken attempts are polled.
    while call.attempts().iter().rev().any(|attempt| attempt.lock().unwrap().poll()) {}

    let bytes = frames.concat();
    let trailers = trailed.then(trailers);
    let attempts = call.attempts();
    for (index, attempt) in attempts.iter().enumerate() {
        let attempt = attempt.lock().unwrap();
        let last = index + 1 == attempts.len();
        match &attempt.end {
            Some(Saw::End) => {
                assert_eq!(attempt.bytes, bytes, "attempt {index} was cut");
                assert_eq!(attempt.trailers, trailers);
            }
            Some(Saw::Stale) => assert!(!last, "the last attempt is stale"),
            // The previous attempt continued past the cap.
            Some(Saw::Gone) => {
                assert!(!attempt.prepared && bytes.len() + "checksumabc".len() > cap);
            }
            None => assert!(!last && attempt.body.is_none(), "attempt {index} hangs"),
            other => panic!("attempt {index} ended with {other:?}"),
        }
        assert!(bytes.starts_with(&attempt.bytes));
    }
    drop(call.kept.lock().unwrap().take());
    for attempt in attempts {
        attempt.lock().unwrap().body = None;
    }
    assert_eq!((layer.buffered(), teller.dropped()), (0, true));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_attempt_sees_all_or_an_error(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..8),
        trailed in any::<bool>(),
        cap in prop_oneof![3 => Just(1_000_usize), 1 => 1..30_usize],
        events in events(),
    ) {
        check(&frames, trailed, cap, events);
    }
}

/// Uses two threads. One continues to poll, and the other takes over.
#[test]
fn a_body_is_whole_when_another_thread_takes_over() {
    for _ in 0..300 {
        let (source, teller) = source();
        let kept = ReplayBody::new(source);
        let mut old = copy(&kept);
        let mut new = copy(&kept);
        for _ in 0..20 {
            teller.data("x");
        }
        teller.give(Step::End);
        let gate = Arc::new(std::sync::Barrier::new(2));
        let other = Arc::clone(&gate);
        let thread = std::thread::spawn(move || {
            other.wait();
            let mut count = 0;
            loop {
                match poll(&mut old) {
                    Saw::Data(_) => count += 1,
                    end => return (count, end),
                }
            }
        });
        gate.wait();
        let mut count = 0;
        loop {
            match poll(&mut new) {
                Saw::Data(_) => count += 1,
                Saw::Pending => {
                    while !new.is_woken() {
                        std::thread::yield_now();
                    }
                }
                end => {
                    assert_eq!((count, end), (20, Saw::End));
                    break;
                }
            }
        }
        match thread.join().unwrap() {
            (20, Saw::End) | (_, Saw::Stale) => {}
            other => panic!("{other:?}"),
        }
    }
}

// The requests that are replayed.

/// A body that records how it was copied.
#[derive(Debug, PartialEq, Eq)]
enum Copied {
    Not { may: bool },
    Kept,
    Unstarted,
}

impl Copied {
    fn of(policy: &ReplaySafe, request: Request<()>) -> Option<Self> {
        Self::from(policy, request.map(|()| Self::Not { may: true }))
    }

    fn from(policy: &ReplaySafe, request: Request<Self>) -> Option<Self> {
        let copy = policy.replay(&request).or_else(|| policy.replay_unsent(&request));
        copy.map(Request::into_body)
    }
}

impl ReplayableBody for Copied {
    fn copy(&self) -> Option<Self> {
        matches!(self, Self::Not { may: true }).then_some(Self::Kept)
    }

    fn copy_unstarted(&self) -> Option<Self> {
        Some(Self::Unstarted)
    }

    fn end_copies(&self) -> bool {
        matches!(self, Self::Not { may: true })
    }
}

fn request(method: &str, uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    request
}

const KEY: (&str, &str) = ("idempotency-key", "k1");
const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

#[test]
fn only_idempotent_methods_are_replayed_by_default() {
    let policy = ReplaySafe::new();
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        let copied = Copied::of(&policy, request(method, "/", &[]));
        assert_eq!(copied, Some(Copied::Kept), "{method}");
        assert!(policy.replay(&request(method, "/", &[])).is_some());
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "PURGE"] {
        let copied = Copied::of(&policy, request(method, "/", &[]));
        assert_eq!(copied, Some(Copied::Unstarted), "{method}");
        assert!(policy.replay(&request(method, "/", &[])).is_none());
    }
}

#[test]
fn a_key_counts_where_it_is_known_to_be_honoured() {
    let policy = ReplaySafe::new();
    let with_key = request("POST", "/payments", &[KEY]);
    assert!(policy.replay(&with_key).is_none(), "a caller may send any header");
    let policy = policy.upstream_honours_key_fn(|head| head.uri().path() == "/payments");
    assert!(policy.replay(&with_key).is_some());
    assert!(policy.replay(&request("POST", "/payments", &[])).is_none());
    assert!(policy.replay(&request("POST", "/other", &[KEY])).is_none());

    let mut ours = request("POST", "/other", &[]);
    ours.extensions_mut().insert(ClientKey);
    assert!(ReplaySafe::new().replay(&ours).is_some());
}

#[test]
fn grpc_methods_are_replayed_by_name() {
    let policy = ReplaySafe::new()
        .upstream_honours_key_fn(|_| true)
        .grpc_methods_fn(|path| path == "/shop.Orders/Get");
    for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
        let get = request("POST", "/shop.Orders/Get", &[("content-type", kind)]);
        assert!(policy.replay(&get).is_some(), "{kind}");
        let put = request("POST", "/shop.Orders/Put", &[("content-type", kind), KEY]);
        assert!(policy.replay(&put).is_none(), "{kind}");
        assert_eq!(Copied::of(&policy, put), Some(Copied::Kept), "its first message is kept");
    }
    let mut ours = request("POST", "/shop.Orders/Put", &[GRPC]);
    ours.extensions_mut().insert(ClientKey);
    assert!(policy.replay(&ours).is_some(), "it has a key of ours");
    let json = request("POST", "/shop.Orders/Get", &[("content-type", "application/json")]);
    assert!(policy.replay(&json).is_none());
    let get = request("POST", "/shop.Orders/Get", &[GRPC]);
    assert!(ReplaySafe::new().replay(&get).is_none());
    let also = ReplaySafe::new().also_fn(|head| head.headers().contains_key("content-type"));
    assert!(also.replay(&get).is_some() && also.replay(&request("POST", "/", &[])).is_none());
}

#[test]
fn functions_of_a_policy_add_up_in_any_order() {
    let grpc = |path| request("POST", path, &[GRPC]);
    let policy =
        ReplaySafe::new().grpc_methods_fn(|path| path == "/a").grpc_methods_fn(|path| path == "/b");
    assert!(policy.replay(&grpc("/a")).is_some() && policy.replay(&grpc("/b")).is_some());
    assert!(policy.replay(&grpc("/c")).is_none());

    let at = |path: &'static str| move |head: RequestHead<'_>| head.uri().path() == path;
    let keyed = |path| request("POST", path, &[KEY]);
    let policy =
        ReplaySafe::new().upstream_honours_key_fn(at("/a")).upstream_honours_key_fn(at("/b"));
    assert!(policy.replay(&keyed("/a")).is_some() && policy.replay(&keyed("/b")).is_some());
    assert!(policy.replay(&keyed("/c")).is_none());

    let post = |path| request("POST", path, &[]);
    let policy = ReplaySafe::new().also_fn(at("/a")).also_fn(at("/b"));
    assert!(policy.replay(&post("/a")).is_some() && policy.replay(&post("/b")).is_some());
    assert!(policy.replay(&post("/c")).is_none());

    let get = |path| request("GET", path, &[]);
    let policy = ReplaySafe::new().except_fn(at("/a")).except_fn(at("/b"));
    assert!(policy.replay(&get("/a")).is_none() && policy.replay(&get("/b")).is_none());
    assert!(policy.replay(&get("/c")).is_some());
}

#[test]
fn a_conditional_write_is_not_replayed_unless_it_was_not_processed() {
    const TAG: &str = "\"7\"";
    let policy = ReplaySafe::new();
    for name in [
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "if",
        "if-schedule-tag-match",
        "x-goog-if-generation-match",
        "x-amz-if-match-size",
    ] {
        for method in ["PUT", "DELETE"] {
            let write = || request(method, "/", &[(name, TAG)]);
            assert!(policy.replay(&write()).is_none(), "{method} with {name}");
            assert_eq!(Copied::of(&policy, write()), Some(Copied::Unstarted));
        }
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(policy.replay(&request(method, "/", &[(name, TAG)])).is_some(), "{method}");
        }
    }
    // These are conditions of reads, or none.
    for name in ["if-modified-since", "if-range", "x-notify-if", "what-if-not"] {
        assert!(policy.replay(&request("PUT", "/", &[(name, TAG)])).is_some(), "{name}");
    }
}

#[test]
fn a_conditional_write_is_replayed_with_a_key_or_on_request() {
    const TAG: (&str, &str) = ("if-match", "\"7\"");
    let write = || request("PUT", "/", &[TAG, KEY]);
    let honoured = ReplaySafe::new().upstream_honours_key_fn(|_| true);
    assert!(honoured.replay(&write()).is_some());
    assert!(honoured.replay(&request("PUT", "/", &[TAG])).is_none());
    let mut ours = request("PUT", "/", &[TAG]);
    ours.extensions_mut().insert(ClientKey);
    assert!(ReplaySafe::new().replay(&ours).is_some());
    let also = ReplaySafe::new().also_fn(|head| head.headers().contains_key("if-match"));
    assert!(also.replay(&write()).is_some());
}

#[test]
fn an_exception_outweighs_every_other_rule() {
    let policy = ReplaySafe::new()
        .upstream_honours_key_fn(|_| true)
        .grpc_methods_fn(|_| true)
        .also_fn(|_| true)
        .except_fn(|head| head.uri().path() == "/once");
    let mut ours = request("GET", "/once", &[]);
    ours.extensions_mut().insert(ClientKey);
    for once in [ours, request("PUT", "/once", &[KEY])] {
        assert!(policy.replay(&once).is_none());
        assert_eq!(Copied::of(&policy, once), Some(Copied::Unstarted));
    }
    let call = request("POST", "/once", &[GRPC]);
    assert!(policy.replay(&call).is_none());
    assert_eq!(Copied::of(&policy, call), Some(Copied::Kept), "its first message is kept");
    assert!(policy.replay(&request("POST", "/twice", &[])).is_some());
}

#[test]
fn what_cannot_be_kept_may_still_be_sent_again_unread() {
    let policy = ReplaySafe::new().grpc_methods_fn(|_| true);
    for too_long in [request("PUT", "/", &[]), request("POST", "/", &[GRPC])] {
        let too_long = too_long.map(|()| Copied::Not { may: false });
        assert!(policy.replay(&too_long).is_none() && !Replay::prepare(&policy, &too_long));
        assert_eq!(Copied::from(&policy, too_long), Some(Copied::Unstarted));
    }
}

#[test]
fn a_request_is_sent_again_as_it_was() {
    let mut original = request(
        "PUT",
        "http://host/path?query",
        &[("content-length", "3"), ("expect", "100-continue"), ("x-own", "1")],
    )
    .map(|()| Full::new(Bytes::from_static(b"one")));
    original.headers_mut().append("x-own", HeaderValue::from_static("2"));
    *original.version_mut() = Version::HTTP_2;
    original.extensions_mut().insert(7_u32);
    let copy = ReplaySafe::new().replay(&original).unwrap();
    assert_eq!((copy.method(), copy.uri()), (original.method(), original.uri()));
    assert_eq!((copy.version(), copy.headers()), (Version::HTTP_2, original.headers()));
    assert_eq!(copy.extensions().get::<u32>(), Some(&7));
    assert_eq!(copy.body().size_hint().exact(), Some(3));
    let head = RequestHead::from(&copy);
    assert_eq!((head.method(), head.version()), (&Method::PUT, Version::HTTP_2));
    assert!(head.extensions().get::<u32>().is_some());
}

#[test]
fn a_policy_is_told_without_its_closures() {
    let policy = ReplaySafe::new().grpc_methods_fn(|_| true);
    let told = "ReplaySafe { upstream_honours_key_fn: 0, grpc_methods_fn: 1, also_fn: 0, \
                except_fn: 0 }";
    assert_eq!(format!("{policy:?}"), told);
}

// Under the retry, without a network.

fn backoff() -> Backoff {
    Backoff::constant(Duration::from_millis(1)).jitter(Jitter::None).build().unwrap()
}

/// A classifier by which a 503 is a transient failure, and the request was not sent.
#[derive(Clone)]
struct Rejected;

impl<B, E> buttress::Classify<Response<B>, E> for Rejected {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        by_status(result)
    }

    fn hint(&self, _: Result<&Response<B>, &E>) -> RetryHint {
        RetryHint::Unsent
    }
}

fn by_status<B, E>(result: Result<&Response<B>, &E>) -> Outcome {
    match result {
        Ok(response) if response.status() != StatusCode::SERVICE_UNAVAILABLE => Outcome::Success,
        _ => Outcome::Failure(Fault::Transient),
    }
}

fn status(status: StatusCode) -> Result<Response<()>, Error<ReplayBodyError>> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn a_plain_post_is_sent_again_only_if_it_was_not_read() {
    for (read, expected) in [(false, 2), (true, 1)] {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let layer = ReplayBodyLayer::new();
        let account = layer.clone();
        let retry = RetryLayer::builder(ReplaySafe::new()).backoff(backoff()).classify(Rejected);
        let client = ServiceBuilder::new().layer(layer).layer(retry.build().unwrap()).service(
            service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
                let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
                let account = account.clone();
                async move {
                    if first && !read {
                        return status(StatusCode::SERVICE_UNAVAILABLE);
                    }
                    let sent = request.into_body().collect().await.map_err(Error::Service)?;
                    assert_eq!(sent.to_bytes(), "order");
                    assert_eq!(account.buffered(), 0);
                    status(if first { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK })
                }
            }),
        );
        let request = Request::post("/").body(Full::from("order")).unwrap();
        let status = client.oneshot(request).await.unwrap().status();
        assert_eq!((calls.load(Ordering::Relaxed), status == StatusCode::OK), (expected, !read));
    }
}

/// The caller would take the 412 of the second attempt for a change by somebody else.
#[tokio::test(start_paused = true)]
async fn the_success_of_a_conditional_write_is_not_taken_for_a_lost_race() {
    let version = Arc::new(AtomicU32::new(1));
    let refused = Arc::new(AtomicBool::new(false));
    let (written, refusing) = (Arc::clone(&version), Arc::clone(&refused));
    let server = service_fn(move |request: Request<Full<Bytes>>| {
        let refuse = refusing.swap(false, Ordering::Relaxed);
        let matches = request.headers()["if-match"] == written.load(Ordering::Relaxed).to_string();
        if matches && !refuse {
            written.fetch_add(1, Ordering::Relaxed);
        }
        async move {
            let mut response = Response::new(String::new());
            // The write succeeds, but the proxy in between loses the response.
            *response.status_mut() =
                if matches { StatusCode::BAD_GATEWAY } else { StatusCode::PRECONDITION_FAILED };
            if refuse {
                Err(io::Error::from(io::ErrorKind::ConnectionRefused))
            } else {
                Ok(response)
            }
        }
    });
    let client = Stack::standard_http().service(server);
    let write = |seen: u32| {
        let request = Request::put("/page").header("if-match", seen);
        client.clone().oneshot(request.body(Full::from("text")).unwrap())
    };
    assert_eq!(write(1).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    assert_eq!(version.load(Ordering::Relaxed), 2);

    refused.store(true, Ordering::Relaxed);
    assert_eq!(write(2).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    assert_eq!(version.load(Ordering::Relaxed), 3, "it was not sent, and so it is sent again");
    assert_eq!(write(2).await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_not_retried() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let client = ServiceBuilder::new()
        .layer(ReplayBodyLayer::new())
        .layer(RetryLayer::new(ReplaySafe::new()))
        .service(service_fn(move |request: Request<ReplayBody<Source>>| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                request.into_body().collect().await.map(drop).map_err(Error::Service)?;
                status(StatusCode::OK)
            }
        }));
    let (source, teller) = source();
    teller.data("one");
    teller.give(Step::Error);
    let error = client.oneshot(Request::put("/").body(source).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Service(ReplayBodyError::Source(_))), "{error:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_once_a_response_was_accepted() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&bodies);
    let layer = ReplayBodyLayer::new();
    let client = ServiceBuilder::new()
        .layer(&layer)
        .layer(RetryLayer::new(ReplaySafe::new()))
        .service(service_fn(move |request: Request<ReplayBody<Source>>| {
            let mut body = spawn(request.into_body());
            assert_eq!(poll(&mut body), data("one"));
            taken.lock().unwrap().push(body);
            async { status(StatusCode::OK) }
        }));
    let (source, teller) = source();
    teller.data("one");
    let call = client.oneshot(Request::put("/").body(source).unwrap());
    let mut call = spawn(call);
    assert!(call.poll().is_ready());
    // The server responded before it had read everything, and the upload continues.
    assert_eq!(layer.buffered(), 0);
    teller.data("two");
    let mut bodies = bodies.lock().unwrap();
    assert_eq!((poll(&mut bodies[0]), layer.buffered()), (data("two"), 0));
}

#[test]
fn readiness_is_that_of_the_service() {
    struct Broken;

    impl Service<Request<ReplayBody<Empty<Bytes>>>> for Broken {
        type Response = ();
        type Error = &'static str;
        type Future = std::future::Ready<Result<(), &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("broken"))
        }

        fn call(&mut self, _: Request<ReplayBody<Empty<Bytes>>>) -> Self::Future {
            std::future::ready(Ok(()))
        }
    }

    let mut service = ReplayBodyLayer::new().layer(Broken);
    let mut cx = Context::from_waker(Waker::noop());
    let ready = Service::<Request<Empty<Bytes>>>::poll_ready(&mut service, &mut cx);
    assert_eq!(ready, Poll::Ready(Err("broken")));
}

// Over sockets.

mod sockets {
    use http_body_util::combinators::BoxBody;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::{
        client::legacy::{Client, connect::HttpConnector},
        rt::{TokioExecutor, TokioIo},
    };
    use tokio::{
        net::TcpListener,
        sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    };

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Protocol {
        Http1,
        Http2,
    }

    use Protocol::{Http1, Http2};

    /// An event of a request at the server.
    #[derive(Debug)]
    enum Event {
        Arrived(u32),
        /// The body ended, with its bytes and trailers if it was complete.
        Body(u32, Option<(Bytes, Option<HeaderMap>)>),
    }

    /// Responds with 503 to the first request after this number of bytes, and reads on.
    ///
    /// Responds to all other requests after their end.
    async fn serve(protocol: Protocol, refuse_after: usize) -> (String, UnboundedReceiver<Event>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/orders", listener.local_addr().unwrap());
        let (events, seen) = unbounded_channel();
        tokio::spawn(async move {
            let requests = Arc::new(AtomicU32::new(0));
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, events) = (Arc::clone(&requests), events.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
                    events.send(Event::Arrived(number)).unwrap();
                    answer(number, refuse_after, request.into_body(), events.clone())
                });
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    use hyper::server::conn::{http1, http2};
                    // A connection that was cut ends with an error.
                    let _ = match protocol {
                        Http1 => http1::Builder::new().serve_connection(io, service).await,
                        Http2 => {
                            http2::Builder::new(TokioExecutor::new())
                                .serve_connection(io, service)
                                .await
                        }
                    };
                });
            }
        });
        (address, seen)
    }

    async fn answer(
        number: u32,
        refuse_after: usize,
        mut body: Incoming,
        events: UnboundedSender<Event>,
    ) -> Result<Response<Empty<Bytes>>, hyper::Error> {
        let mut read = Vec::new();
        let mut response = Response::new(Empty::new());
        if number == 1 {
            while read.len() < refuse_after {
                let Some(Ok(frame)) = body.frame().await else {
                    events.send(Event::Body(number, None)).unwrap();
                    return Ok(response);
                };
                read.extend_from_slice(frame.data_ref().unwrap());
            }
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let rest = async move {
            let whole = body.collect().await.ok().map(|rest| {
                let trailers = rest.trailers().cloned();
                read.extend_from_slice(&rest.to_bytes());
                (Bytes::from(read), trailers)
            });
            events.send(Event::Body(number, whole)).unwrap();
        };
        if number == 1 {
            tokio::spawn(rest);
        } else {
            rest.await;
        }
        Ok(response)
    }

    type Upload = BoxBody<Bytes, io::Error>;
    type Refusal = Error<hyper_util::client::legacy::Error>;

    fn client(
        protocol: Protocol,
        layer: &ReplayBodyLayer,
    ) -> impl Service<Request<Upload>, Response = Response<Incoming>, Error = Refusal, Future: Send>
    + Send
    + 'static {
        let http: Client<HttpConnector, ReplayBody<Upload>> = Client::builder(TokioExecutor::new())
            .http2_only(matches!(protocol, Http2))
            .build_http();
        ServiceBuilder::new()
            .layer(layer)
            .layer(
                RetryLayer::builder(ReplaySafe::new())
                    .backoff(backoff())
                    .classify_fn(by_status::<Incoming, Refusal>)
                    .build()
                    .unwrap(),
            )
            .map_err(Error::Service)
            .service(http)
    }

    /// Sends the frames of the teller, in its own task.
    fn send(
        protocol: Protocol,
        layer: &ReplayBodyLayer,
        address: &str,
        source: Source,
    ) -> tokio::task::JoinHandle<Result<Response<Incoming>, Refusal>> {
        let request = Request::put(address).header("te", "trailers").header("trailer", "checksum");
        let request = request.body(source.boxed()).unwrap();
        tokio::spawn(client(protocol, layer).oneshot(request))
    }

    async fn within<T>(protocol: Protocol, test: impl Future<Output = T>) -> T {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, test).await.unwrap_or_else(|_| panic!("{protocol:?} hangs"))
    }

    async fn next(seen: &mut UnboundedReceiver<Event>) -> Event {
        seen.recv().await.expect("the server is there")
    }

    async fn a_rejection_in_mid_upload_is_replayed(protocol: Protocol) {
        let (address, mut seen) = serve(protocol, 5).await;
        let (source, teller) = source();
        let layer = ReplayBodyLayer::new();
        let call = send(protocol, &layer, &address, source);
        teller.data("first");
        let mut cut_off = false;
        loop {
            match next(&mut seen).await {
                Event::Arrived(1) => {}
                Event::Arrived(2) => break,
                Event::Body(1, None) => cut_off = true,
                other => panic!("{protocol:?}: {other:?}"),
            }
        }
        teller.data(", second");
        teller.give(Step::Trailers(trailers()));
        teller.give(Step::End);
        let mut whole = None;
        while !cut_off || whole.is_none() {
            match next(&mut seen).await {
                Event::Body(1, None) => cut_off = true,
                Event::Body(2, Some(sent)) => whole = Some(sent),
                other => panic!("{protocol:?}: {other:?}"),
            }
        }
        assert_eq!(whole.unwrap(), (Bytes::from("first, second"), Some(trailers())));
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
        assert_eq!(layer.buffered(), 0);
    }

    #[tokio::test]
    async fn a_rejection_in_mid_upload_is_replayed_over_http1() {
        within(Http1, a_rejection_in_mid_upload_is_replayed(Http1)).await;
    }

    #[tokio::test]
    async fn a_rejection_in_mid_upload_is_replayed_over_http2() {
        within(Http2, a_rejection_in_mid_upload_is_replayed(Http2)).await;
    }

    async fn past_the_cap_it_is_sent_once(protocol: Protocol) {
        const CHUNK: usize = 40_000;
        let (address, mut seen) = serve(protocol, 2 * CHUNK).await;
        let (source, teller) = source();
        let layer = ReplayBodyLayer::new();
        let call = send(protocol, &layer, &address, source);
        teller.data(vec![1; CHUNK]);
        teller.data(vec![2; CHUNK]);
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(layer.buffered(), 0);
        // The response came before the end of the upload, which is not disturbed.
        teller.data(vec![3; CHUNK]);
        teller.give(Step::End);
        assert!(matches!(next(&mut seen).await, Event::Arrived(1)));
        match next(&mut seen).await {
            Event::Body(1, Some((sent, _))) => {
                let expected = [vec![1; CHUNK], vec![2; CHUNK], vec![3; CHUNK]].concat();
                assert!(sent == expected, "{protocol:?}: {} bytes", sent.len());
            }
            other => panic!("{protocol:?}: {other:?}"),
        }
        assert!(seen.is_empty(), "it was sent again");
        drop(response);
    }

    #[tokio::test]
    async fn past_the_cap_it_is_sent_once_over_http1() {
        within(Http1, past_the_cap_it_is_sent_once(Http1)).await;
    }

    #[tokio::test]
    async fn past_the_cap_it_is_sent_once_over_http2() {
        within(Http2, past_the_cap_it_is_sent_once(Http2)).await;
    }

    async fn a_body_that_fails_is_not_retried(protocol: Protocol) {
        let (address, mut seen) = serve(protocol, 5).await;
        let (source, teller) = source();
        let call = send(protocol, &ReplayBodyLayer::new(), &address, source);
        teller.data("one");
        assert!(matches!(next(&mut seen).await, Event::Arrived(1)));
        teller.give(Step::Error);
        let error = call.await.unwrap().unwrap_err();
        let mut chain: Option<&(dyn StdError + 'static)> = Some(&error);
        let mut found = false;
        while let Some(error) = chain {
            let body = error.downcast_ref::<ReplayBodyError>();
            found |= matches!(body, Some(ReplayBodyError::Source(_)));
            chain = error.source();
        }
        // Over HTTP/1, hyper returns the error of the body. Over HTTP/2, it only reports that it
        // reset the stream.
        assert_eq!(found, matches!(protocol, Http1), "{protocol:?}: {error:?}");
        let event = next(&mut seen).await;
        assert!(matches!(event, Event::Body(1, None)), "{protocol:?}: {event:?}");
        assert!(seen.is_empty(), "it was sent again");
    }

    #[tokio::test]
    async fn a_body_that_fails_is_not_retried_over_http1() {
        within(Http1, a_body_that_fails_is_not_retried(Http1)).await;
    }

    #[tokio::test]
    async fn a_body_that_fails_is_not_retried_over_http2() {
        within(Http2, a_body_that_fails_is_not_retried(Http2)).await;
    }
}
