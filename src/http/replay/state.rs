//! The state of a replayable body and of its handles.
//!
//! A handle is one [`ReplayBody`](super::body::ReplayBody). At most one handle is running, which
//! means that it was polled and reads the body. Other handles are waiting for their first poll.
//! Some of the waiting handles are kept only to make copies of them. All other handles are stale.

use std::{mem, pin::Pin, task::Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    error::ReplayBodyError,
    kept_bytes::KeptBytes,
    prefix::{Piece, Prefix},
};
use crate::BoxError;

pub(super) struct State<B> {
    pub(super) source: Source<B>,
    /// The size hint of the source.
    ///
    /// It is updated whenever the source is put back. The source is user code, which must not run
    /// under the lock.
    pub(super) rest: SizeHint,
    pub(super) at_end: bool,
    prefix: Prefix,
    running: Option<Running>,
    waiting: Vec<Waiting>,
    next_id: u64,
}

pub(super) enum Source<B> {
    Here(Pin<Box<B>>),
    /// A handle has taken the source out to poll it.
    Out,
    Ended,
    /// The source failed or panicked. The error is here until a handle returns it.
    Failed(Option<BoxError>),
}

/// The handle that reads the body.
struct Running {
    id: u64,
    /// The position of the frame to send next.
    position: usize,
    waker: Option<Waker>,
}

/// A handle that was not polled yet.
struct Waiting {
    id: u64,
    /// `true` if the handle is kept to make copies of it. A running copy does not make it stale.
    kept: bool,
    /// `true` if all sent data must be kept for this handle.
    wants: bool,
}

/// Values to wake or drop after the lock is released, because waking and dropping run user code.
pub(super) struct After<B> {
    pub(super) wake: Option<Waker>,
    pub(super) outdated: Option<Waker>,
    pub(super) source: Option<Pin<Box<B>>>,
    pub(super) freed: Vec<Piece>,
}

/// The next step of a polled handle.
pub(super) enum Next<B> {
    Frame(Frame<Bytes>),
    End,
    Error(ReplayBodyError),
    /// The handle is running from now on, and must ask for the next step again.
    Claimed,
    /// Poll the source and put it back. `known` is `true` if the waker is already stored.
    Poll {
        source: Pin<Box<B>>,
        known: bool,
    },
    /// Wait until the source is put back.
    Wait {
        known: bool,
    },
}

/// The result of polling the source.
pub(super) enum Given {
    Nothing,
    Frame(Frame<Bytes>),
    End,
    Error(BoxError),
}

impl<B: Body> State<B> {
    pub(super) fn new(body: B, kept_bytes: KeptBytes) -> Self {
        Self {
            rest: body.size_hint(),
            at_end: body.is_end_stream(),
            source: Source::Here(Box::pin(body)),
            prefix: Prefix::new(kept_bytes),
            running: None,
            waiting: vec![Waiting { id: 0, kept: false, wants: false }],
            next_id: 1,
        }
    }
}

impl<B> State<B> {
    fn runs(&self, id: u64) -> bool {
        self.running.as_ref().is_some_and(|running| running.id == id)
    }

    fn waiting(&self, id: u64) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.id == id)
    }

    /// Returns the position of a handle, or `None` if it is stale or cannot be sent.
    fn position(&self, id: u64) -> Option<usize> {
        match &self.running {
            _ if matches!(self.source, Source::Failed(_)) => None,
            Some(running) if running.id == id => Some(running.position),
            _ => self.waiting(id).filter(|_| self.prefix.is_whole()).map(|_| 0),
        }
    }

    /// Returns whether all sent data must be kept.
    fn wants_all(&self) -> bool {
        self.prefix.is_whole() && self.waiting.iter().any(|waiting| waiting.wants)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Frees the frames that no handle can send any more.
    pub(super) fn settle(&mut self, after: &mut After<B>) {
        let nobody = self.running.is_none() && self.waiting.is_empty();
        if nobody && matches!(self.source, Source::Here(_)) {
            if let Source::Here(source) = mem::replace(&mut self.source, Source::Ended) {
                after.source = Some(source);
            }
        }
        let needed_from = match &self.running {
            _ if nobody || matches!(self.source, Source::Failed(_)) => usize::MAX,
            _ if self.wants_all() => 0,
            Some(running) => running.position,
            // A waiting handle starts at the beginning, and cannot be sent without it.
            None if self.prefix.is_whole() => 0,
            None => usize::MAX,
        };
        let freed = self.prefix.free_before(needed_from);
        if !freed.is_empty() {
            after.freed = freed;
        }
    }

    /// Registers a copy of handle `id` and returns the id of the copy.
    ///
    /// Handle `id` is kept from now on. Returns `None` if it was polled, is stale, or can be sent
    /// only once.
    pub(super) fn copy(&mut self, id: u64, wants: bool) -> Option<u64> {
        let original = self.waiting(id)?;
        // A body that failed can still be copied. The copy fails too.
        let failed = matches!(self.source, Source::Failed(_));
        let too_long = wants && !self.prefix.has_room_for(self.rest.lower());
        if !failed && (!self.prefix.is_whole() || too_long) {
            if too_long {
                self.prefix.overflow();
            }
            return None;
        }
        self.waiting[original].kept = true;
        self.waiting[original].wants |= wants;
        let id = self.new_id();
        self.waiting.push(Waiting { id, kept: false, wants });
        Some(id)
    }

    /// Ends all copies of handle `id`, and their copies, if the handle can still be sent.
    pub(super) fn prepare(&mut self, id: u64, after: &mut After<B>) -> bool {
        if self.waiting(id).is_none() || self.position(id).is_none() {
            return false;
        }
        // The older kept handles stay, because this handle is a copy of them.
        self.waiting.retain(|other| other.id == id || other.kept && other.id < id);
        after.wake = self.running.take().and_then(|running| running.waker);
        true
    }

    /// Removes a handle that is dropped.
    pub(super) fn leave(&mut self, id: u64, after: &mut After<B>) {
        if self.runs(id) {
            after.outdated = self.running.take().and_then(|running| running.waker);
        }
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// Makes handle `id` the running one and ends the handles before it.
    ///
    /// Returns whether the handle was not running before.
    fn claim(&mut self, id: &mut u64, after: &mut After<B>) -> Result<bool, ReplayBodyError> {
        let place = self.waiting(*id);
        if place.is_none() && !self.runs(*id) {
            return Err(ReplayBodyError::Stale);
        }
        if let Source::Failed(error) = &mut self.source {
            return Err(error.take().map_or(ReplayBodyError::Failed, ReplayBodyError::Source));
        }
        let Some(place) = place else { return Ok(false) };
        if !self.prefix.is_whole() {
            return Err(ReplayBodyError::Gone);
        }
        let claimed = self.waiting.remove(place);
        if claimed.kept {
            // The handle is older than its copies. It now comes after them, so it gets a new id.
            *id = self.new_id();
        }
        self.waiting.retain(|other| other.kept || other.id > *id);
        let running = Running { id: *id, position: 0, waker: None };
        after.wake = self.running.replace(running).and_then(|before| before.waker);
        Ok(true)
    }

    /// Returns the next step of handle `id`, which is being polled.
    pub(super) fn next(&mut self, id: &mut u64, waker: &Waker, after: &mut After<B>) -> Next<B> {
        match self.claim(id, after) {
            Err(error) => return Next::Error(error),
            // The previous handle is woken first. If that panics, the source must not be taken
            // out.
            Ok(true) => return Next::Claimed,
            Ok(false) => {}
        }
        let Some(running) = &mut self.running else { unreachable!("it was claimed just now") };
        if let Some(frame) = self.prefix.get(running.position) {
            running.position += 1;
            return Next::Frame(frame);
        }
        let known = running.waker.as_ref().is_some_and(|known| known.will_wake(waker));
        match mem::replace(&mut self.source, Source::Out) {
            Source::Here(source) => Next::Poll { source, known },
            Source::Out => Next::Wait { known },
            Source::Ended => {
                self.source = Source::Ended;
                Next::End
            }
            Source::Failed(_) => unreachable!("a source that failed is not claimed"),
        }
    }

    /// Stores a waker for handle `id` until the source is put back.
    ///
    /// Returns `false` if the source was already put back, or the handle is stale.
    pub(super) fn wait(&mut self, id: u64, waker: Waker, after: &mut After<B>) -> bool {
        match &mut self.running {
            Some(running) if running.id == id && matches!(self.source, Source::Out) => {
                after.outdated = running.waker.replace(waker);
                true
            }
            _ => {
                after.outdated = Some(waker);
                false
            }
        }
    }

    /// Takes the source back from handle `id`. Returns whether that handle is still running.
    pub(super) fn put_back(
        &mut self,
        id: u64,
        source: Pin<Box<B>>,
        given: &mut Given,
        waker: Option<Waker>,
        after: &mut After<B>,
    ) -> bool {
        let runs = self.runs(id);
        match given {
            Given::Nothing => self.source = Source::Here(source),
            Given::Frame(frame) => {
                self.source = Source::Here(source);
                self.receive(frame, runs, after);
            }
            Given::End => {
                self.source = Source::Ended;
                after.source = Some(source);
            }
            Given::Error(_) => {
                after.source = Some(source);
                self.source = Source::Failed(None);
                // A stale handle leaves the error to the running handle. That handle must report
                // it, because a failed source must not be retried.
                if !runs {
                    if let Given::Error(error) = mem::replace(given, Given::Nothing) {
                        self.source = Source::Failed(Some(error));
                    }
                }
            }
        }
        match &mut self.running {
            Some(running) if runs => {
                if waker.is_some() {
                    after.outdated = mem::replace(&mut running.waker, waker);
                }
            }
            _ => {
                after.outdated = waker;
                self.wake_other(id, after);
            }
        }
        runs
    }

    /// Keeps a frame from the source, or counts it as not kept.
    fn receive(&mut self, frame: &Frame<Bytes>, runs: bool, after: &mut After<B>) {
        // Empty frames are not kept. They would need unlimited memory without counting as bytes.
        if frame.data_ref().is_some_and(Bytes::is_empty) {
            return;
        }
        if !runs {
            if !self.prefix.keep_for_running(frame) {
                if let Source::Here(source) = mem::replace(&mut self.source, Source::Failed(None)) {
                    after.source = Some(source);
                }
            }
            return;
        }
        let keeps = self.wants_all();
        let kept = keeps && self.prefix.keep(frame);
        if keeps && !kept {
            self.prefix.overflow();
        }
        if !kept {
            after.freed = self.prefix.pass();
        }
        if let Some(running) = &mut self.running {
            running.position = self.prefix.end();
        }
    }

    /// Wakes the running handle, unless it is `id`.
    pub(super) fn wake_other(&mut self, id: u64, after: &mut After<B>) {
        if let Some(running) = self.running.as_mut().filter(|running| running.id != id) {
            after.wake = running.waker.take();
        }
    }

    /// Returns whether handle `id` has nothing left to send.
    ///
    /// A stale handle never returns `true`, because its body is cut off.
    pub(super) fn is_end(&self, id: u64) -> bool {
        self.at_end && self.position(id).is_some_and(|position| position >= self.prefix.end())
    }

    /// Returns the size hint of the data that handle `id` has left to send.
    pub(super) fn size_hint(&self, id: u64) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(position) = self.position(id) {
            let kept = self.prefix.data_from(position);
            hint.set_lower(self.rest.lower().saturating_add(kept));
            if let Some(upper) = self.rest.upper().and_then(|upper| upper.checked_add(kept)) {
                hint.set_upper(upper);
            }
        }
        hint
    }

    /// Returns the state of a handle for `Debug`.
    pub(super) fn standing(&self, id: u64) -> &'static str {
        match self.waiting(id) {
            _ if self.runs(id) => "running",
            Some(place) if self.waiting[place].kept => "kept",
            Some(_) => "waiting",
            None => "stale",
        }
    }
}
