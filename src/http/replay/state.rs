//! The state of a body that can be sent again, and of its handles.
//!
//! One handle runs: it has been polled, and reads. Others wait to be polled, and of these some are
//! only kept to make copies of. A handle that is neither is stale.

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
    /// What the source says is still to come. Asked whenever it is put back, since it is the user's
    /// code and must not run under the lock.
    pub(super) rest: SizeHint,
    pub(super) at_end: bool,
    prefix: Prefix,
    running: Option<Running>,
    waiting: Vec<Waiting>,
    next_id: u64,
}

pub(super) enum Source<B> {
    Here(Pin<Box<B>>),
    /// Somebody polls it.
    Out,
    Ended,
    /// It gave an error, which is here if nobody has seen it yet, or it panicked.
    Failed(Option<BoxError>),
}

/// The handle that reads.
struct Running {
    id: u64,
    /// The frame that it sends next.
    position: usize,
    waker: Option<Waker>,
}

/// A handle that was not polled yet.
struct Waiting {
    id: u64,
    /// Whether it is kept to make copies of: then a copy that runs does not make it stale.
    kept: bool,
    /// Whether all that is sent must be kept for it.
    wants: bool,
}

/// What is dropped or woken when the lock is released, since it runs the user's code.
pub(super) struct After<B> {
    pub(super) wake: Option<Waker>,
    pub(super) outdated: Option<Waker>,
    pub(super) source: Option<Pin<Box<B>>>,
    pub(super) freed: Vec<Piece>,
}

/// What a handle that is polled does.
pub(super) enum Next<B> {
    Frame(Frame<Bytes>),
    End,
    Error(ReplayBodyError),
    /// It runs from now on, and is asked anew.
    Claimed,
    /// It polls the source and puts it back. With `known` the waker is noted already.
    Poll {
        source: Pin<Box<B>>,
        known: bool,
    },
    /// It waits until the source is put back.
    Wait {
        known: bool,
    },
}

/// What a source gave when it was polled.
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

    /// Where a handle is in the body; `None` if it is stale or cannot be sent.
    fn position(&self, id: u64) -> Option<usize> {
        match &self.running {
            _ if matches!(self.source, Source::Failed(_)) => None,
            Some(running) if running.id == id => Some(running.position),
            _ => self.waiting(id).filter(|_| self.prefix.is_whole()).map(|_| 0),
        }
    }

    /// Whether all that is sent must be kept.
    fn wants_all(&self) -> bool {
        self.prefix.is_whole() && self.waiting.iter().any(|waiting| waiting.wants)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Frees what nobody can send any more.
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
            // Who waits begins at the beginning, and without that not at all.
            None if self.prefix.is_whole() => 0,
            None => usize::MAX,
        };
        let freed = self.prefix.free_before(needed_from);
        if !freed.is_empty() {
            after.freed = freed;
        }
    }

    /// Notes that a copy is made of handle `id`, which is kept. The id of the copy, or `None` if the
    /// handle was polled, is stale, or can be sent only once.
    pub(super) fn copy(&mut self, id: u64, wants: bool) -> Option<u64> {
        let original = self.waiting(id)?;
        // Of a body that failed a copy fails, too.
        let failed = matches!(self.source, Source::Failed(_));
        let too_long = wants && !self.prefix.has_room_for(self.rest.lower());
        if !failed && (!self.prefix.is_whole() || too_long) {
            return None;
        }
        self.waiting[original].kept = true;
        self.waiting[original].wants |= wants;
        let id = self.new_id();
        self.waiting.push(Waiting { id, kept: false, wants });
        Some(id)
    }

    /// Ends every copy that was made, and copies of those, if handle `id` can be sent (again).
    pub(super) fn prepare(&mut self, id: u64, after: &mut After<B>) -> bool {
        if self.waiting(id).is_none() || self.position(id).is_none() {
            return false;
        }
        // Older and kept is only what this one is itself a copy of.
        self.waiting.retain(|other| other.id == id || other.kept && other.id < id);
        after.wake = self.running.take().and_then(|running| running.waker);
        true
    }

    /// A handle is dropped.
    pub(super) fn leave(&mut self, id: u64, after: &mut After<B>) {
        if self.runs(id) {
            after.outdated = self.running.take().and_then(|running| running.waker);
        }
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// Makes handle `id` the one that runs, which ends those before.
    /// Whether it was not so before.
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
            // It is older than its copies, and yet it comes after them.
            *id = self.new_id();
        }
        self.waiting.retain(|other| other.kept || other.id > *id);
        let running = Running { id: *id, position: 0, waker: None };
        after.wake = self.running.replace(running).and_then(|before| before.waker);
        Ok(true)
    }

    /// What handle `id` does, now that it is polled.
    pub(super) fn next(&mut self, id: &mut u64, waker: &Waker, after: &mut After<B>) -> Next<B> {
        match self.claim(id, after) {
            Err(error) => return Next::Error(error),
            // The handle before is woken first: should that panic, the source must not be out.
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

    /// Has handle `id` woken when the source is put back; `false` if that has happened, or the handle
    /// is stale.
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

    /// Takes the source back from handle `id`; whether that one still runs.
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
                // A stale handle keeps it for the one that runs: it is not to be retried.
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

    /// Keeps a frame that the source gave, or counts it as gone.
    fn receive(&mut self, frame: &Frame<Bytes>, runs: bool, after: &mut After<B>) {
        // Kept, empty frames would take room without end and count for nothing.
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
        if !self.wants_all() || !self.prefix.keep(frame) {
            after.freed = self.prefix.pass();
        }
        if let Some(running) = &mut self.running {
            running.position = self.prefix.end();
        }
    }

    /// Wakes the handle that runs, unless it is `id`.
    pub(super) fn wake_other(&mut self, id: u64, after: &mut After<B>) {
        if let Some(running) = self.running.as_mut().filter(|running| running.id != id) {
            after.wake = running.waker.take();
        }
    }

    /// Whether nothing is left to send for handle `id`. Never of a stale one, which is cut off.
    pub(super) fn is_end(&self, id: u64) -> bool {
        self.at_end && self.position(id).is_some_and(|position| position >= self.prefix.end())
    }

    /// How much is left to send for handle `id`.
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

    /// What a `Debug` of a handle tells.
    pub(super) fn standing(&self, id: u64) -> &'static str {
        match self.waiting(id) {
            _ if self.runs(id) => "running",
            Some(place) if self.waiting[place].kept => "kept",
            Some(_) => "waiting",
            None => "stale",
        }
    }
}
