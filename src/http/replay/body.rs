use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{error::ReplayBodyError, kept_bytes::KeptBytes, shared::Shared, state::Next};
use crate::BoxError;

/// A request body that can be replayed.
///
/// All copies of a `ReplayBody` share the original body, which is read only once.
/// [`ReplayableBody`] creates the copies. The copy that was first polled most recently reads the
/// original body. It sends the kept data and then the rest. All copies that were polled before it
/// end with [`ReplayBodyError::Stale`]. See the [module docs](super).
pub struct ReplayBody<B> {
    shared: Arc<Shared<B>>,
    id: u64,
}

impl<B: Body> ReplayBody<B> {
    /// Creates a body that keeps up to 64 KiB, and shares no limit with other bodies.
    pub fn new(body: B) -> Self {
        Self::counted_in(body, KeptBytes::default())
    }

    pub(super) fn counted_in(body: B, kept_bytes: KeptBytes) -> Self {
        Self { shared: Arc::new(Shared::new(body, kept_bytes)), id: 0 }
    }
}

impl<B> ReplayBody<B> {
    fn copied(&self, wants: bool) -> Option<Self> {
        let id = self.shared.with(|state, _| state.copy(self.id, wants))?;
        Some(Self { shared: Arc::clone(&self.shared), id })
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = ReplayBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayBodyError>>> {
        let Self { shared, id } = self.get_mut();
        loop {
            match shared.with(|state, after| state.next(id, cx.waker(), after)) {
                Next::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Next::End => return Poll::Ready(None),
                Next::Error(error) => return Poll::Ready(Some(Err(error))),
                Next::Claimed => {}
                Next::Poll { source, known } => return shared.poll_source(*id, source, known, cx),
                Next::Wait { known: true } => return Poll::Pending,
                Next::Wait { known: false } => {
                    let waker = cx.waker().clone();
                    if shared.with(|state, after| state.wait(*id, waker, after)) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.shared.read(|state| state.is_end(self.id))
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.read(|state| state.size_hint(self.id))
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        self.shared.with(|state, after| state.leave(self.id, after));
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standing = self.shared.read(|state| state.standing(self.id));
        f.debug_struct("ReplayBody").field("standing", &standing).finish_non_exhaustive()
    }
}

/// A body that can be copied for a replay.
///
/// It is implemented for every body that is `Clone`, and for [`ReplayBody`].
#[diagnostic::on_unimplemented(
    message = "a body of type `{Self}` can be sent only once, and so `ReplaySafe` cannot send it \
               again",
    note = "let the client send `ReplayBody<{Self}>`, and put a `buttress::http::ReplayBodyLayer` \
           around the stack: it makes one of every body",
    note = "or use a body that is `Clone`, such as `http_body_util::Full`",
    note = "for a tonic channel, write `buttress::http::grpc::client(channel, stack)` instead of \
            `stack.service(channel)`"
)]
pub trait ReplayableBody: Sized {
    /// Returns a copy that can be sent from the beginning, even after another copy was sent.
    ///
    /// The sent data is kept while the original exists. Returns `None` if the body can be sent
    /// only once.
    fn copy(&self) -> Option<Self>;

    /// Returns a copy for which no data is kept.
    ///
    /// The original can be sent after it only if nothing of the body was read. Returns `None` if
    /// the body can be sent only once.
    fn copy_unstarted(&self) -> Option<Self>;

    /// Ends all copies, so that none looks complete to its receiver.
    ///
    /// Returns `false`, and ends no copy, if the original can no longer be sent.
    fn end_copies(&self) -> bool;
}

#[diagnostic::do_not_recommend]
impl<B: Clone> ReplayableBody for B {
    fn copy(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn copy_unstarted(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn end_copies(&self) -> bool {
        true
    }
}

impl<B> ReplayableBody for ReplayBody<B> {
    fn copy(&self) -> Option<Self> {
        self.copied(true)
    }

    fn copy_unstarted(&self) -> Option<Self> {
        self.copied(false)
    }

    fn end_copies(&self) -> bool {
        self.shared.with(|state, after| state.prepare(self.id, after))
    }
}
