//! The state that a scripted service shares with its clones, its calls and its handles.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    task::Waker,
};

use super::script::{Step, Violation};
use crate::call::lock::lock;

/// The wakers of waiting instances or calls, by their ids.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<(u64, Waker)>);

impl Waiters {
    pub(super) fn park(&mut self, id: u64, waker: &Waker) {
        match self.0.iter_mut().find(|(parked, _)| *parked == id) {
            Some((_, parked)) => parked.clone_from(waker),
            None => self.0.push((id, waker.clone())),
        }
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.0.retain(|(parked, _)| *parked != id);
    }
}

/// Wakes all waiters. Call it outside the lock, because a waker may poll at once.
pub(super) fn wake_all(waiters: Waiters) {
    for (_, waker) in waiters.0 {
        waker.wake();
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: usize,
    pub(super) in_flight: usize,
    pub(super) peak_in_flight: usize,
    pub(super) completed: usize,
    pub(super) dropped: usize,
    pub(super) polls: usize,
    pub(super) readiness_polls: usize,
}

pub(super) type Otherwise<Res, E> = Arc<dyn Fn() -> Result<Res, E> + Send + Sync>;

pub(super) struct State<Res, E> {
    pub(super) script: VecDeque<Step<Res, E>>,
    pub(super) otherwise: Otherwise<Res, E>,
    pub(super) unready: bool,
    /// The id of the first call that no `release` has covered yet.
    pub(super) released_below: u64,
    pub(super) next_id: u64,
    pub(super) readiness_waiters: Waiters,
    pub(super) call_waiters: Waiters,
    pub(super) counts: Counts,
    pub(super) violations: Vec<Violation>,
}

impl<Res, E> State<Res, E> {
    pub(super) fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

pub(super) struct Shared<Res, E>(pub(super) Mutex<State<Res, E>>);

impl<Res, E> fmt::Debug for Shared<Res, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("Flaky")
            .field("steps_left", &state.script.len())
            .field("unready", &state.unready)
            .field("counts", &state.counts)
            .field("violations", &state.violations)
            .finish_non_exhaustive()
    }
}
