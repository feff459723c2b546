//! A service with slots that `poll_ready` reserves.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::call::lock::lock;

#[derive(Debug, Default)]
struct State {
    slots: usize,
    taken: usize,
    /// The taken slots that a call has moved into its future.
    called: usize,
    queue: VecDeque<(u64, Waker)>,
    /// The waiters that were given a slot and have not been polled since.
    granted: Vec<u64>,
    next_waiter: u64,
    unready_calls: usize,
}

#[derive(Debug, Default)]
struct Pool(Mutex<State>);

impl Pool {
    /// Gives one slot back. The first waiter in the queue gets it, and no later caller overtakes.
    fn give_back(&self) {
        let mut state = lock(&self.0);
        let Some((waiter, waker)) = state.queue.pop_front() else {
            state.taken -= 1;
            return;
        };
        state.granted.push(waiter);
        drop(state);
        waker.wake();
    }
}

/// A slot. Dropping it gives it to the next waiter.
#[derive(Debug)]
struct Slot {
    pool: Arc<Pool>,
    called: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.called {
            lock(&self.pool.0).called -= 1;
        }
        self.pool.give_back();
    }
}

/// A place in the queue.
///
/// Dropping it leaves the queue. A slot that it was given meanwhile goes to the next waiter.
#[derive(Debug)]
struct Waiting {
    pool: Arc<Pool>,
    waiter: u64,
}

impl Waiting {
    /// Returns whether a slot was given. If not, replaces the waker.
    fn poll(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.pool.0);
        if let Some(index) = state.granted.iter().position(|id| *id == self.waiter) {
            state.granted.swap_remove(index);
            return true;
        }
        let parked = state.queue.iter_mut().find(|(id, _)| *id == self.waiter);
        if let Some((_, parked)) = parked {
            parked.clone_from(waker);
        }
        false
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.0);
        state.queue.retain(|(id, _)| *id != self.waiter);
        if let Some(index) = state.granted.iter().position(|id| *id == self.waiter) {
            state.granted.swap_remove(index);
            drop(state);
            self.pool.give_back();
        }
    }
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    None,
    Waiting(Waiting),
    Slot(Slot),
}

/// A service with a fixed number of slots, which `poll_ready` reserves.
///
/// `call` moves the slot into the future. The slot is free again when the future is dropped, or
/// when an instance is dropped before its call. Waiters get slots in the order in which they
/// came. A clone starts without a slot.
///
/// # Example
///
/// ```
/// use buttress::testing::{Flaky, Reserving, task::SpawnedService};
///
/// let reserving = Reserving::new(Flaky::new([], || Ok::<_, &str>("response")), 1);
/// let slots = reserving.handle();
///
/// let mut first = SpawnedService::<_, &str>::new(reserving.clone());
/// let mut second = SpawnedService::<_, &str>::new(reserving);
/// assert!(first.poll_ready().is_ready());
/// assert!(second.poll_ready().is_pending());
///
/// drop(first);
/// assert!(second.is_woken());
/// assert!(second.poll_ready().is_ready());
/// assert_eq!(slots.reserved(), 1);
/// ```
#[derive(Debug)]
pub struct Reserving<S> {
    inner: S,
    pool: Arc<Pool>,
    place: Place,
}

impl<S> Reserving<S> {
    /// Wraps a service with a number of slots.
    ///
    /// With `usize::MAX` slots, no caller waits, and the slots are still counted. With `0`, no
    /// instance becomes ready.
    pub fn new(inner: S, slots: usize) -> Self {
        let state = State { slots, ..State::default() };
        Self { inner, pool: Arc::new(Pool(Mutex::new(state))), place: Place::None }
    }

    /// Returns a handle to the slots that this service shares with its clones.
    #[must_use]
    pub fn handle(&self) -> ReservingHandle {
        ReservingHandle { pool: Arc::clone(&self.pool) }
    }

    /// Returns a reference to the inner service.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    #[must_use]
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, and frees the slot or the place in the queue of this instance.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn poll_slot(&mut self, cx: &Context<'_>) -> Poll<()> {
        if let Place::Slot(_) = self.place {
            return Poll::Ready(());
        }
        if let Place::Waiting(waiting) = &self.place {
            if !waiting.poll(cx.waker()) {
                return Poll::Pending;
            }
        } else {
            let mut state = lock(&self.pool.0);
            if state.taken == state.slots {
                let waiter = state.next_waiter;
                state.next_waiter += 1;
                state.queue.push_back((waiter, cx.waker().clone()));
                drop(state);
                self.place = Place::Waiting(Waiting { pool: Arc::clone(&self.pool), waiter });
                return Poll::Pending;
            }
            state.taken += 1;
        }
        self.place = Place::Slot(Slot { pool: Arc::clone(&self.pool), called: false });
        Poll::Ready(())
    }
}

impl<S: Clone> Clone for Reserving<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            pool: Arc::clone(&self.pool),
            // A slot belongs to the instance that was polled.
            place: Place::None,
        }
    }
}

impl<S: Service<Req>, Req> Service<Req> for Reserving<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReservingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.poll_slot(cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let slot = match mem::take(&mut self.place) {
            Place::Slot(mut slot) => {
                slot.called = true;
                lock(&self.pool.0).called += 1;
                Some(slot)
            }
            Place::Waiting(_) | Place::None => {
                lock(&self.pool.0).unready_calls += 1;
                None
            }
        };
        ReservingFuture { inner: self.inner.call(request), slot }
    }
}

pin_project! {
    /// The response future of [`Reserving`].
    ///
    /// It holds its slot until it is dropped, even after it has completed.
    #[derive(Debug)]
    pub struct ReservingFuture<F> {
        #[pin]
        inner: F,
        slot: Option<Slot>,
    }
}

impl<F: Future> Future for ReservingFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}

/// A handle for reading the slots of a [`Reserving`] service.
#[derive(Clone)]
pub struct ReservingHandle {
    pool: Arc<Pool>,
}

impl ReservingHandle {
    /// Returns the number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        lock(&self.pool.0).slots
    }

    /// Returns the number of slots that are reserved or held by a future.
    #[must_use]
    pub fn taken(&self) -> usize {
        lock(&self.pool.0).taken
    }

    /// Returns the number of slots reserved by instances that have not been called yet.
    ///
    /// A slot that was given to a waiter counts, even before the next poll of the waiter.
    #[must_use]
    pub fn reserved(&self) -> usize {
        let state = lock(&self.pool.0);
        state.taken - state.called
    }

    /// Returns the number of instances that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.pool.0).queue.len()
    }

    /// Returns how often an instance without a slot was called.
    ///
    /// Such a call still reaches the inner service.
    #[must_use]
    pub fn unready_calls(&self) -> usize {
        lock(&self.pool.0).unready_calls
    }
}

impl fmt::Debug for ReservingHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pool.fmt(f)
    }
}
