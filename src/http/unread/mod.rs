//! The watch over the reader of a response.
//!
//! A body acts only when it is polled, and a server does not poll it while its caller accepts no
//! data. The timer here therefore does not wake the task of the connection. Its waker ends the call
//! itself, where the runtime fires the timer. There is no task.

use std::{
    fmt,
    future::Future,
    mem::replace,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    body_limits::{BodyLimits, BodyTimeout, PROMPTLY, TIMED_OUT},
    kept::Cut,
    reporters::BodyOwner,
};
use crate::{
    Rejection,
    call::{account::How, ambient::Ambient, completion::CallEnd, held::SharedEnd, lock::lock},
    error::TimedOut,
    telemetry::{Event, Kind},
};

/// A timer that fires later than this was held up, and the reader perhaps too.
const HELD_UP: Duration = Duration::from_millis(10);

/// The watch over the reader of one response.
pub(super) enum Unread {
    /// The response is a client's, it has no limit, or the runtime has no timers.
    Off,
    /// The watch has not begun. The response may take this long without a read.
    After(Duration),
    Watching(Arc<Watch>),
}

/// The parts of a response that do not change while it is read.
pub(super) struct Watched {
    pub(super) limits: BodyLimits,
    pub(super) ambient: Ambient,
    pub(super) awaits_status: bool,
    /// The body, if a limit ends it.
    pub(super) body: Option<Arc<dyn Cut>>,
    pub(super) owner: Arc<dyn BodyOwner>,
}

impl Unread {
    /// Returns `true` if the watch has begun, or will begin.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Watches a reader that got the head or a frame at `since`.
    pub(super) fn left(
        &mut self,
        since: Instant,
        end: &mut Option<CallEnd>,
        watched: impl FnOnce() -> Watched,
    ) {
        if let (&mut Self::After(unread), Some(end)) = (&mut *self, end) {
            // A body that is read outside a runtime has no watch, because it has no timers.
            if Handle::try_current().is_err() {
                return;
            }
            *self = Self::Watching(Watch::new(unread, watched(), end.share()));
        }
        if let Self::Watching(watch) = self {
            watch.end_read(Reader::Left { since, waited: None }, since);
        }
    }

    /// Watches a reader that waits for a frame since `since`, and waited `before` in earlier reads.
    #[inline]
    pub(super) fn waits(&self, since: Option<Instant>, before: Duration) {
        if let (Self::Watching(watch), Some(since)) = (self, since) {
            watch.end_read(Reader::Left { since, waited: Some(before) }, since);
        }
    }

    /// Returns the rejection if the watch has ended the body since the last read.
    #[inline]
    pub(super) fn begin_read(&self) -> Option<Rejection> {
        match self {
            Self::Watching(watch) => watch.begin_read(),
            Self::Off | Self::After(_) => None,
        }
    }

    /// Ends the watch, because the body has ended.
    #[inline]
    pub(super) fn close(&self) {
        if let Self::Watching(watch) = self {
            watch.close();
        }
    }
}

type Timer = Pin<Box<Sleep>>;

/// The last known activity of a reader.
#[derive(Clone, Copy)]
enum Reader {
    Reads,
    /// The reader has not polled again since it got a frame, or since it began to wait for one. In
    /// the second case, `waited` is the time that it waited in earlier reads.
    Left {
        since: Instant,
        waited: Option<Duration>,
    },
    /// The body or the call has ended.
    Gone,
}

struct State {
    reader: Reader,
    /// The end of the time of a reader that gets a second chance.
    extended: Option<Instant>,
    /// It is not here while a thread arms it.
    timer: Option<Timer>,
    /// The instant at which the timer will fire, or for which a thread arms it.
    armed: Option<Instant>,
    /// The timer has fired while a thread was arming it.
    fired: bool,
    /// The rejection for the next read.
    over: Option<Rejection>,
}

/// A watch over a reader. It is the waker of its own timer.
pub(super) struct Watch {
    watched: Watched,
    /// The longest time without a read, if the body has no limit of its own.
    unread: Duration,
    end: SharedEnd,
    state: Mutex<State>,
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        match &state.timer {
            None => state.fired = true,
            // A runtime that shuts down wakes all timers early.
            Some(timer) if now < timer.deadline() => {}
            Some(_) => {
                state.armed = None;
                self.extend(&mut state, now);
                self.check(state, now);
            }
        }
    }
}

impl Watch {
    fn new(unread: Duration, watched: Watched, end: SharedEnd) -> Arc<Self> {
        let state = State {
            reader: Reader::Reads,
            extended: None,
            timer: None,
            armed: None,
            fired: false,
            over: None,
        };
        Arc::new(Self { watched, unread, end, state: Mutex::new(state) })
    }

    fn begin_read(&self) -> Option<Rejection> {
        let mut state = lock(&self.state);
        if !matches!(state.reader, Reader::Gone) {
            state.reader = Reader::Reads;
            state.extended = None;
        }
        state.over.take()
    }

    fn end_read(self: &Arc<Self>, reader: Reader, now: Instant) {
        let mut state = lock(&self.state);
        if !matches!(state.reader, Reader::Gone) {
            state.reader = reader;
            self.check(state, now);
        }
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.reader = Reader::Gone;
        // The timer holds the watch by its waker.
        let timer = state.timer.take();
        drop(state);
        drop(timer);
    }

    /// Returns the instant at which the reader has reached a limit, and that limit of the body.
    fn due(&self, state: &State) -> Option<(Instant, Option<BodyTimeout>)> {
        let Reader::Left { since, waited } = state.reader else { return None };
        let (end, limit) = match self.watched.limits.end(since) {
            Some((end, limit)) => (end, Some(limit)),
            // A reader that waits is no slow reader.
            None if waited.is_some() => return None,
            None => (since.checked_add(self.unread)?, None),
        };
        Some((state.extended.unwrap_or(end), limit))
    }

    /// Gives a reader a second chance before its body is cut.
    ///
    /// A limit also wakes a reader that waits, which then ends the body itself. If the runtime was
    /// held up, a reader that wanted to poll may not have been able to.
    fn extend(&self, state: &mut State, now: Instant) {
        let (Some((at, Some(limit))), Reader::Left { waited, .. }) =
            (self.due(state), state.reader)
        else {
            return;
        };
        let held_up = limit == BodyTimeout::Idle && now.duration_since(at) > HELD_UP;
        if state.extended.is_none() && now >= at && (waited.is_some() || held_up) {
            state.extended = now.checked_add(PROMPTLY);
        }
    }

    /// Arms the timer unless it is armed, and ends the call if its time is over.
    fn check<'a>(self: &'a Arc<Self>, state: MutexGuard<'a, State>, now: Instant) {
        self.check_by(state, now, |timer, at| self.arm(timer, at));
    }

    /// Does the same. `arm` runs without the lock, because a timer may wake its waker while it is
    /// armed, on this thread or on another one.
    fn check_by<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        mut now: Instant,
        mut arm: impl FnMut(Option<Timer>, Instant) -> Option<(Timer, bool)>,
    ) {
        loop {
            let Some((at, limit)) = self.due(&state) else { return };
            // A timer that fires too early is armed again. If a thread is arming it, that thread
            // looks at the reader again.
            if state.armed.is_some_and(|armed| armed <= at || state.timer.is_none()) {
                return;
            }
            if now >= at {
                return self.end_reader(state, limit);
            }
            state.armed = Some(at);
            state.fired = false;
            let timer = state.timer.take();
            drop(state);
            let armed = arm(timer, at);
            state = lock(&self.state);
            let (timer, pending) = match armed {
                Some(armed) if !matches!(state.reader, Reader::Gone) => armed,
                // The watch has been closed. Or there is no timer, and the body works without one.
                armed => {
                    state.reader = Reader::Gone;
                    drop(state);
                    return drop(armed);
                }
            };
            state.timer = Some(timer);
            if !pending || state.fired {
                state.armed = None;
                now = Instant::now();
                if !pending {
                    // The runtime of the reader and that of the timer may not have the same clock.
                    now = now.max(at);
                }
                self.extend(&mut state, now);
            }
        }
    }

    /// Arms the timer. Returns it, and `true` if it will fire, or `None` if there is no timer.
    fn arm(self: &Arc<Self>, timer: Option<Timer>, at: Instant) -> Option<(Timer, bool)> {
        let waker = Waker::from(Arc::clone(self));
        // A runtime that has no timers, or that shuts down, panics here.
        catch_unwind(AssertUnwindSafe(|| {
            let mut timer = timer.unwrap_or_else(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            // The budget of the task that reads does not concern this timer.
            let polled = pin!(unconstrained(timer.as_mut())).poll(&mut Context::from_waker(&waker));
            (timer, polled.is_pending())
        }))
        .ok()
    }

    /// Ends the call of a reader whose time is over.
    fn end_reader(&self, mut state: MutexGuard<'_, State>, limit: Option<BodyTimeout>) {
        let reader = replace(&mut state.reader, Reader::Gone);
        let timer = state.timer.take();
        state.over = limit.map(|limit| self.watched.limits.rejection(limit));
        drop(state);
        drop(timer);
        // A panic of the body or of a waker must not end the thread that drives the timers.
        let _ = catch_unwind(AssertUnwindSafe(|| self.end_call(reader, limit)));
    }

    fn end_call(&self, reader: Reader, limit: Option<BodyTimeout>) {
        let Watched { limits, ambient, awaits_status, body, owner } = &self.watched;
        let (how, waited) = match reader {
            Reader::Left { since, waited: Some(before) } => {
                if limit == Some(BodyTimeout::Idle) {
                    self.end.ignore_deadline();
                }
                (How::Complete(TIMED_OUT, None), before + since.elapsed())
            }
            // The reader is slow, and not the handler.
            _ if *awaits_status => (How::DroppedWhileReading, Duration::ZERO),
            _ => (How::DroppedBetweenReads, Duration::ZERO),
        };
        // The reader can no longer end the call, which is still open while its body is dropped.
        let ending = self.end.end(how, waited);
        if let (Some(body), Some(_)) = (body, limit) {
            let _ambient = ambient.enter();
            body.cut();
        }
        match limit {
            Some(limit) => drop(limits.late(limit, &**owner)),
            None => {
                let rejection = TimedOut::new("unread response body", self.unread).into();
                let event = Event::Rejected { rejection: &rejection };
                owner.reporters().of(Kind::UnreadBody).emit(event);
            }
        }
        if let Some(ending) = ending {
            ending.settle();
        }
    }
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::After(_) => "After",
            Self::Watching(_) => "Watching",
        })
    }
}

#[cfg(test)]
mod tests;
