//! The time for which a call or a body is held.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::switch::{Switch, Ticket};
use crate::call::{timer::poll_timer, waiters::Key};

pin_project! {
    #[project = PauseProj]
    /// A pause of a call or of its body, which ends at the latest with the window or the arming.
    pub(crate) struct Pause {
        switch: Arc<Switch>,
        ticket: Ticket,
        end: Instant,
        // It has a place among the calls that hang.
        hangs: bool,
        place: Option<Key>,
        #[pin]
        timer: Option<Sleep>,
    }

    impl PinnedDrop for Pause {
        fn drop(this: Pin<&mut Self>) {
            this.project().leave();
        }
    }
}

impl PauseProj<'_> {
    fn leave(&mut self) {
        self.timer.set(None);
        if let Some(place) = self.place.take() {
            self.switch.leave(place);
        }
        if std::mem::take(self.hangs) {
            self.switch.end_hang();
        }
    }
}

impl Pause {
    fn until(switch: &Arc<Switch>, ticket: Ticket, end: Instant, hangs: bool) -> Self {
        Self { switch: Arc::clone(switch), ticket, end, hangs, place: None, timer: None }
    }

    /// Creates a pause without an end of its own. Returns `None` if too many calls hang already.
    pub(crate) fn hang(switch: &Arc<Switch>, ticket: Ticket) -> Option<Self> {
        switch.begin_hang().then(|| Self::until(switch, ticket, ticket.until, true))
    }

    /// Creates a pause of this length, counted from the call.
    pub(crate) fn of(switch: &Arc<Switch>, ticket: Ticket, length: Duration) -> Self {
        Self::until(switch, ticket, ticket.end_of(ticket.began, length), false)
    }

    /// Returns `true` if the layer was disarmed since the call began, or if the window has ended.
    #[cfg(feature = "http")]
    pub(crate) fn is_over(&self) -> bool {
        self.switch.is_over(self.ticket)
    }

    /// Counts and reports the fault whose pause it is.
    #[cfg(feature = "http")]
    pub(crate) fn inject(self: Pin<&mut Self>, fault: &'static str, number: u64) {
        self.switch.inject(fault, number);
    }

    /// Begins another pause of this length now.
    pub(crate) fn begin(self: Pin<&mut Self>, length: Duration) {
        let mut this = self.project();
        this.leave();
        *this.end = this.ticket.end_of(Instant::now(), length);
    }
}

impl Future for Pause {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        // Joins before it arms the timer, so that it cannot miss that the layer is disarmed.
        *this.place = this.switch.hold(*this.ticket, *this.place, cx.waker());
        if this.place.is_some() {
            ready!(poll_timer(this.timer.as_mut(), *this.end, cx));
            if *this.end == this.ticket.until {
                this.switch.end_if_over(*this.end);
            }
        }
        this.leave();
        Poll::Ready(())
    }
}
