//! A part of a call in a task of its own.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{ended_call::EndedCall, route::settling};

pin_project! {
    /// A part of a call in a task of its own, which settles the call to an endpoint.
    ///
    /// Its output has this call, if a part around the task would have settled it.
    pub(crate) struct SettleHere<F> {
        #[pin]
        future: F,
        // Its address identifies the part.
        part: Option<u64>,
    }
}

impl<F> SettleHere<F> {
    /// Creates the part. `settles` says that a part around the task would settle the call.
    pub(crate) fn new(settles: bool, future: F) -> Self {
        Self { future, part: settles.then_some(0) }
    }
}

impl<F: Future> Future for SettleHere<F> {
    type Output = (F::Output, Option<EndedCall>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let part: &Option<u64> = this.part;
        if part.is_none() {
            return this.future.poll(cx).map(|output| (output, None));
        }
        let settling = settling::<_, ()>(part, None);
        let polled = this.future.poll(cx);
        let call = settling.ended().and_then(|beneath| beneath.call);
        polled.map(|output| (output, call))
    }
}
