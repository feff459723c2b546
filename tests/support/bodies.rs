//! Bodies without data.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A body that ends, breaks off or hangs at once.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "not every test that includes this file uses it")]
pub(crate) enum Bare {
    Ends,
    Breaks,
    Hangs,
}

impl Body for Bare {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match *self {
            Self::Ends => Poll::Ready(None),
            Self::Breaks => Poll::Ready(Some(Err("broken"))),
            Self::Hangs => Poll::Pending,
        }
    }
}

/// A body that is always ready with an empty frame. Its clones count its frames.
#[derive(Clone, Default)]
#[allow(dead_code, reason = "not every test that includes this file uses it")]
pub(crate) struct EmptyFrames(Arc<AtomicU32>);

impl EmptyFrames {
    #[allow(dead_code, reason = "not every test that includes this file uses it")]
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Body for EmptyFrames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // The runtime cannot end a task that never waits.
        let frames = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(frames < 1_000_000, "it is read for ever");
        Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(8)
    }
}
