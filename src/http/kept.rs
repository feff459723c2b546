//! The inner body of a response, which a limit can drop while nobody polls it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::ahead::{Ahead, FrameOf};
use crate::call::lock::lock;

pin_project! {
    /// The inner body of a response.
    #[project = InnerProj]
    pub(super) enum Inner<B: Body> {
        Own { #[pin] body: B },
        // A limit can drop it while nobody polls it.
        Kept { body: Arc<Kept<B>>, cut: Arc<dyn Cut> },
        // A part of it was read before its reader got the response.
        Ahead { body: Pin<Box<Ahead<B>>> },
        // It is read and discarded, up to `left` bytes. The box makes it `Unpin`.
        Drained { body: Pin<Box<Inner<B>>>, left: usize },
        // A limit has ended it, and its reader knows.
        Gone,
    }
}

/// A body that can be dropped before its response is.
pub(super) trait Cut: Send + Sync {
    /// Drops the body. It must not be called during a read.
    fn cut(&self);
}

/// A body that its response shares with the watch over its reader.
pub(super) struct Kept<B>(Mutex<Place<B>>);

struct Place<B> {
    /// `None` during a read, and after a limit has dropped it.
    body: Option<Pin<Box<B>>>,
    /// The answers of the body after the last read. Asking it anew would run under the lock.
    is_end_stream: bool,
    size_hint: SizeHint,
}

impl<B: Body> Kept<B> {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<FrameOf<B>>> {
        // Taken out, because user code must not run under the lock.
        let Some(mut body) = lock(&self.0).body.take() else { return Poll::Ready(None) };
        let read = catch_unwind(AssertUnwindSafe(|| {
            (body.as_mut().poll_frame(cx), body.is_end_stream(), body.size_hint())
        }));
        let mut place = lock(&self.0);
        place.body = Some(body);
        match read {
            Ok((polled, is_end_stream, size_hint)) => {
                (place.is_end_stream, place.size_hint) = (is_end_stream, size_hint);
                polled
            }
            Err(panic) => {
                drop(place);
                resume_unwind(panic)
            }
        }
    }
}

impl<B> Kept<B> {
    fn drop_body(&self) {
        let mut place = lock(&self.0);
        place.size_hint = SizeHint::default();
        let body = place.body.take();
        drop(place);
        drop(body);
    }
}

impl<B: Send> Cut for Kept<B> {
    fn cut(&self) {
        self.drop_body();
    }
}

impl<B: Body> Inner<B> {
    /// Returns `true` for a body that is drained, or that a watch owns too.
    #[inline]
    pub(super) fn needs_end(&self) -> bool {
        matches!(self, Self::Kept { .. } | Self::Drained { .. })
    }

    /// Drops the body, whose reader learns of it now.
    pub(super) fn end(mut self: Pin<&mut Self>) {
        match self.as_mut().project() {
            InnerProj::Kept { body, .. } => body.drop_body(),
            InnerProj::Drained { body, .. } => body.as_mut().end(),
            InnerProj::Own { .. } | InnerProj::Ahead { .. } | InnerProj::Gone => {}
        }
        self.set(Self::Gone);
    }

    /// Returns the body, if a limit can drop it.
    pub(super) fn cut(&self) -> Option<Arc<dyn Cut>> {
        match self {
            Self::Kept { cut, .. } => Some(Arc::clone(cut)),
            Self::Own { .. } | Self::Ahead { .. } | Self::Drained { .. } | Self::Gone => None,
        }
    }
}

impl<B: Body + Send + 'static> Inner<B> {
    /// Keeps the body where a limit can drop it.
    pub(super) fn keep(body: B) -> Self {
        let (is_end_stream, size_hint) = (body.is_end_stream(), body.size_hint());
        let place = Place { body: Some(Box::pin(body)), is_end_stream, size_hint };
        let body = Arc::new(Kept(Mutex::new(place)));
        Self::Kept { cut: Arc::clone(&body) as _, body }
    }
}

impl<B: Body> Inner<B> {
    #[inline(always)]
    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<FrameOf<B>>> {
        match self.project() {
            InnerProj::Own { body } => body.poll_frame(cx),
            InnerProj::Kept { body, .. } => body.poll_frame(cx),
            InnerProj::Ahead { body } => body.as_mut().poll_frame(cx),
            InnerProj::Drained { .. } | InnerProj::Gone => Poll::Ready(None),
        }
    }

    /// Returns `true` if the body has ended, and its reader knows.
    #[inline]
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { body } => body.is_end_stream(),
            Self::Kept { body, .. } => lock(&body.0).is_end_stream,
            Self::Ahead { body } => body.is_end_stream(),
            Self::Drained { .. } | Self::Gone => true,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { body } => body.size_hint(),
            Self::Kept { body, .. } => SizeHint::clone(&lock(&body.0).size_hint),
            Self::Ahead { body } => body.size_hint(),
            Self::Drained { .. } | Self::Gone => SizeHint::with_exact(0),
        }
    }
}
