//! The state that the handles of one body share.

use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    error::ReplayBodyError,
    kept_bytes::KeptBytes,
    state::{After, Given, Source, State},
};
use crate::{BoxError, call::lock::lock};

pub(super) struct Shared<B> {
    state: Mutex<State<B>>,
}

impl<B: Body> Shared<B> {
    pub(super) fn new(body: B, kept_bytes: KeptBytes) -> Self {
        Self { state: Mutex::new(State::new(body, kept_bytes)) }
    }
}

impl<B> Shared<B> {
    /// Reads the state.
    pub(super) fn read<T>(&self, f: impl FnOnce(&State<B>) -> T) -> T {
        f(&lock(&self.state))
    }

    /// Changes the state. Wakes and drops happen after the lock is released.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State<B>, &mut After<B>) -> T) -> T {
        let mut after = After { wake: None, outdated: None, source: None, freed: Vec::new() };
        let value = {
            let mut state = lock(&self.state);
            let value = f(&mut state, &mut after);
            state.settle(&mut after);
            value
        };
        if let Some(waker) = after.wake.take() {
            waker.wake();
        }
        value
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls the source for handle `id`, which has taken it out, and puts it back.
    pub(super) fn poll_source(
        &self,
        id: u64,
        source: Pin<Box<B>>,
        known: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayBodyError>>> {
        let mut taken = Taken { shared: self, id, source: Some(source) };
        let source = taken.source.as_mut().expect("it was put there just now");
        let mut given = match source.as_mut().poll_frame(cx) {
            Poll::Pending => Given::Nothing,
            Poll::Ready(None) => Given::End,
            Poll::Ready(Some(Ok(frame))) => Given::Frame(frame),
            Poll::Ready(Some(Err(error))) => Given::Error(error.into()),
        };
        let (rest, at_end) = match given {
            Given::Nothing | Given::Frame(_) => (source.size_hint(), source.is_end_stream()),
            Given::End | Given::Error(_) => (SizeHint::with_exact(0), true),
        };
        let waits = matches!(given, Given::Nothing) && !known;
        let waker = waits.then(|| cx.waker().clone());
        let source = taken.source.take().expect("it is taken out only here");
        drop(taken);

        let runs = self.with(|state, after| {
            state.rest = rest;
            state.at_end = at_end;
            state.put_back(id, source, &mut given, waker, after)
        });
        match given {
            // A stale handle fails even at the end of the source. A body that is cut off must
            // not look complete.
            _ if !runs => Poll::Ready(Some(Err(ReplayBodyError::Stale))),
            Given::Nothing => Poll::Pending,
            Given::Frame(frame) => Poll::Ready(Some(Ok(frame))),
            Given::End => Poll::Ready(None),
            Given::Error(error) => Poll::Ready(Some(Err(ReplayBodyError::Source(error)))),
        }
    }
}

/// A source that a handle has taken out.
///
/// If polling the source panics, it is not put back, and no handle may wait for it.
struct Taken<'a, B> {
    shared: &'a Shared<B>,
    id: u64,
    source: Option<Pin<Box<B>>>,
}

impl<B> Drop for Taken<'_, B> {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            self.shared.with(|state, after| {
                after.source = Some(source);
                state.source = Source::Failed(None);
                state.wake_other(self.id, after);
            });
        }
    }
}
