//! The readiness of a service whose callers wait in their futures.

use std::{
    mem,
    task::{Context, Poll},
};

use tower_service::Service;

use super::oneshot::Oneshot;

/// The result of polling an inner service once, kept until the next call takes it.
///
/// A layer whose limit covers the wait for readiness reports `Ready` in any case.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Readiness {
    #[default]
    NotAsked,
    /// This instance of the service is ready, and the call uses it.
    Ready,
    /// The future waits until a clone of the service is ready.
    InFuture,
}

impl Readiness {
    /// Polls the service, unless an earlier result was not taken yet.
    #[inline]
    pub(crate) fn ask<S, Req>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
    ) -> Result<(), S::Error>
    where
        S: Service<Req> + Clone,
    {
        if let Self::NotAsked = self {
            // If the service is ready now, the call does not have to clone the stack beneath.
            *self = if let Poll::Ready(result) = inner.poll_ready(cx) {
                result?;
                Self::Ready
            } else {
                // Replaces the instance that waits. If no call follows, that instance would keep
                // its place in a queue, and a slot could be handed to it.
                *inner = inner.clone();
                Self::InFuture
            };
        }
        Ok(())
    }

    /// Calls the service if it is ready. Otherwise, the future waits for a clone of it.
    #[inline]
    pub(crate) fn call<S, Req>(
        &mut self,
        inner: &mut S,
        request: Req,
        call: impl FnOnce(&mut S, Req) -> S::Future,
    ) -> Oneshot<S, Req>
    where
        S: Service<Req> + Clone,
    {
        match mem::take(self) {
            Self::Ready => Oneshot::called(call(inner, request)),
            Self::NotAsked | Self::InFuture => Oneshot::waiting(inner.clone(), request),
        }
    }
}
