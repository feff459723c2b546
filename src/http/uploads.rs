//! Reads and discards the rest of rejected requests.
//!
//! An HTTP/1 server that drops the rest of a request closes the connection. A client that is still
//! sending then sees the broken connection, and not the response. A server therefore makes its
//! [`Uploads`] ambient while it runs a request. A layer that rejects the request beneath passes it
//! to [`discard`], which reads the body in a task. The response does not wait for that task.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http::{Request, Version, header::EXPECT};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::{
    runtime::Handle,
    task::{AbortHandle, coop::consume_budget},
    time::timeout,
};

use crate::call::lock::lock;

/// The most bytes that are read of one request.
const MAX_BYTES: u64 = 16 << 20;

/// The longest time for which one request is read.
const MAX_TIME: Duration = Duration::from_secs(5);

/// The most requests of one server layer that are read at a time.
const MAX_TASKS: usize = 64;

thread_local! {
    static AMBIENT: RefCell<Option<Uploads>> = const { RefCell::new(None) };
}

/// The rejected requests that a server layer is reading, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads {
    tasks: Arc<Mutex<VecDeque<AbortHandle>>>,
}

impl Uploads {
    /// Returns a handle for a request, if reading the rest of it can help its client.
    ///
    /// HTTP/2 needs no reading, because there a rejected stream does not end its connection.
    pub(super) fn of<B: Body>(&self, request: &Request<B>) -> Option<Self> {
        let helps = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
        helps.then(|| self.clone())
    }

    /// Returns the handle of the request that runs on this thread.
    pub(super) fn current() -> Option<Self> {
        // A thread that ends may drop a call when it has no ambient values any more.
        AMBIENT.try_with(|ambient| ambient.borrow().clone()).ok().flatten()
    }

    /// Runs a part of a request with its handle ambient, and without that of a server around it.
    pub(super) fn enter<T>(ours: &mut Option<Self>, piece: impl FnOnce() -> T) -> T {
        let Ok(outer) = AMBIENT.try_with(|ambient| ambient.replace(ours.take())) else {
            return piece();
        };
        let _entered = Entered { ours, outer };
        piece()
    }

    /// Starts a task that reads a body and discards it.
    ///
    /// The task inherits no ambient values, because it only reads.
    fn drain<B: Body + Send + 'static>(&self, body: B) {
        if body.is_end_stream() || body.size_hint().lower() > MAX_BYTES {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let task = runtime.spawn(async {
            let _ = timeout(MAX_TIME, read(body)).await;
        });
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        let oldest = if tasks.len() < MAX_TASKS { None } else { tasks.pop_front() };
        tasks.push_back(task.abort_handle());
        drop(tasks);
        if let Some(oldest) = oldest {
            oldest.abort();
        }
    }
}

/// Restores the ambient handle when it is dropped, even after a panic.
struct Entered<'a> {
    ours: &'a mut Option<Uploads>,
    outer: Option<Uploads>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.ours = AMBIENT.replace(self.outer.take());
    }
}

/// Reads a body up to its end, an error or the limit.
async fn read<B: Body>(body: B) {
    let (mut body, mut left) = (pin!(body), MAX_BYTES);
    loop {
        // Keeps only the length, because the data and the error need not be `Send`.
        let read = poll_fn(|cx| {
            body.as_mut().poll_frame(cx).map(|frame| {
                let frame = frame?.ok()?;
                Some(frame.data_ref().map_or(0, |data| data.remaining() as u64))
            })
        });
        let Some(rest) = read.await.and_then(|bytes| left.checked_sub(bytes)) else { return };
        left = rest;
        consume_budget().await;
    }
}

/// Discards a request that was rejected before its body was polled.
///
/// The body is dropped if the client waits to be told to continue, because it has not begun.
pub(super) fn discard<B: Body + Send + 'static>(request: Request<B>) {
    // A run of an idempotency layer is a task of its own.
    let uploads = Uploads::current().or_else(|| request.extensions().get().cloned());
    if let Some(uploads) = uploads.filter(|_| !request.headers().contains_key(EXPECT)) {
        uploads.drain(request.into_body());
    }
}

pin_project! {
    /// A body that is drained if it is dropped before its end.
    #[project = ReadingProj]
    pub(super) enum Reading<B> {
        Dropped { #[pin] body: B },
        // A body that was polled can move only in a box. It is `None` after its end, and while it
        // is polled, because it may panic.
        Drained { body: Option<Pin<Box<B>>>, drain: fn(&Uploads, Pin<Box<B>>), uploads: Uploads },
    }

    impl<B> PinnedDrop for Reading<B> {
        fn drop(this: Pin<&mut Self>) {
            if let ReadingProj::Drained { body, drain, uploads } = this.project() {
                if let Some(body) = body.take() {
                    drain(uploads, body);
                }
            }
        }
    }
}

impl<B: Body + Send + 'static> Reading<B> {
    pub(super) fn new(body: B) -> Self {
        match Uploads::current() {
            Some(uploads) => {
                Self::Drained { body: Some(Box::pin(body)), drain: Uploads::drain, uploads }
            }
            None => Self::Dropped { body },
        }
    }
}

impl<B: Body> Body for Reading<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let rest = match self.project() {
            ReadingProj::Dropped { body } => return body.poll_frame(cx),
            ReadingProj::Drained { body, .. } => body,
        };
        let Some(mut body) = rest.take() else { return Poll::Ready(None) };
        let polled = body.as_mut().poll_frame(cx);
        let goes_on = match &polled {
            Poll::Pending => true,
            // Trailers are the last frame.
            Poll::Ready(frame) => matches!(frame, Some(Ok(frame)) if frame.is_data()),
        };
        *rest = goes_on.then_some(body);
        polled
    }
}
