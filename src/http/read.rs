//! Reads a body into memory, up to a limit.

use std::{
    convert::Infallible,
    future::poll_fn,
    mem::take,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response, response::Parts};
use http_body::Body;
use tokio::task::coop::consume_budget;

use super::head::ResponseShape;
use crate::keep::Kept;

/// The result of reading a body.
pub(super) enum Read<E> {
    Whole {
        data: Bytes,
        trailers: Option<HeaderMap>,
    },
    /// The body is longer than the limit, and `over` is the frame that exceeded it. Or its account
    /// has stopped the reading, and `over` is empty.
    TooLong {
        data: Bytes,
        over: Bytes,
    },
    Broken {
        data: Bytes,
        error: E,
    },
}

/// A body that can be created from what was read of it.
pub(super) trait FromRead: Body<Data = Bytes> + Sized {
    /// Creates a body that was read to its end.
    fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self;

    /// Creates a body of the data that was read, the frame that exceeded the limit, and the rest.
    fn resumed(data: Bytes, over: Bytes, rest: Pin<Box<Self>>) -> Self;

    /// Creates a body that failed after its data.
    fn broken(data: Bytes, error: Self::Error) -> Self;
}

/// The account of a body that is being read, which bounds its memory or its time.
pub(super) trait BodyAccount {
    /// The reason why the body may hold no more memory.
    type Error;

    /// Accounts for a body that has `length` bytes of data now, in a buffer of `memory` bytes.
    fn grow(&mut self, length: usize, memory: usize) -> Result<(), Self::Error>;

    /// Is called when the body waits for more data. The task is woken if the body is ended.
    ///
    /// Once this returns `Ready`, the body is not read further.
    fn park(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Self::Error>;
}

/// The account of a body whose memory is bounded elsewhere.
impl BodyAccount for () {
    type Error = Infallible;

    fn grow(&mut self, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn park(&mut self, _: &mut Context<'_>) -> Result<Poll<()>, Infallible> {
        Ok(Poll::Pending)
    }
}

/// The memory of several bodies, which is bounded.
pub(super) trait Memory: Send + Sync {
    /// Takes back the memory of a body.
    fn give_back(&self, bytes: usize);
}

/// A part of a memory, which is given back when it is dropped.
pub(super) struct HeldMemory {
    memory: Arc<dyn Memory>,
    bytes: usize,
}

impl HeldMemory {
    pub(super) fn new(memory: Arc<dyn Memory>, bytes: usize) -> Self {
        Self { memory, bytes }
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

/// The number of frames without data that are read of a body.
const EMPTY_FRAMES: usize = 1_000;

/// Reads a body to its end, or until it has more than `most` bytes of data.
pub(super) async fn read<B: Body<Data = Bytes>, A: BodyAccount>(
    mut body: Pin<&mut B>,
    most: usize,
    account: &mut A,
) -> Result<Read<B::Error>, A::Error> {
    let (mut data, mut empty) = (Gathered::default(), 0);
    loop {
        let polled = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(Some(frame))),
            Poll::Pending => match account.park(cx) {
                Ok(stopped) => stopped.map(|()| Ok(None)),
                Err(ended) => Poll::Ready(Err(ended)),
            },
        });
        let frame = match polled.await? {
            Some(Some(Ok(frame))) => frame,
            Some(Some(Err(error))) => return Ok(Read::Broken { data: data.finish(), error }),
            Some(None) => return Ok(Read::Whole { data: data.finish(), trailers: None }),
            None => return Ok(Read::TooLong { data: data.finish(), over: Bytes::new() }),
        };
        match frame.into_data() {
            Ok(piece) if piece.len() > most.saturating_sub(data.len()) => {
                return Ok(Read::TooLong { data: data.finish(), over: piece });
            }
            // No limit of time acts on a body that is always ready, and its frames may never end.
            Ok(piece) if piece.is_empty() && empty == EMPTY_FRAMES => {
                return Ok(Read::TooLong { data: data.finish(), over: piece });
            }
            Ok(piece) => {
                empty += usize::from(piece.is_empty());
                data.push(piece, most);
                account.grow(data.len(), data.memory())?;
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(Read::Whole { data: data.finish(), trailers: Some(trailers) });
                }
            }
        }
        // A body that is always ready with an empty frame would otherwise never yield, and no
        // timeout could act.
        consume_budget().await;
    }
}

/// Keeps a response whose body has at most `most` bytes.
///
/// `take` returns the payload and its bytes, from the head, the data and the trailers.
pub(super) async fn keep<B, P, A>(
    response: Response<B>,
    most: usize,
    account: &mut A,
    take: impl FnOnce(&Parts, &[u8], Option<&HeaderMap>) -> Option<(P, usize)>,
) -> Kept<P, Response<B>>
where
    B: FromRead,
    A: BodyAccount<Error = Infallible>,
{
    let (head, body) = response.into_parts();
    let kept = |payload, head, body| {
        let response = Response::from_parts(head, body);
        match payload {
            Some((payload, bytes)) => Kept::new(response, payload, bytes),
            None => Kept::not_kept(response),
        }
    };
    if ResponseShape::Whole.ends_at_head(head.status) || body.is_end_stream() {
        return kept(take(&head, &[], None), head, body);
    }
    if body.size_hint().lower() > most as u64 {
        return kept(None, head, body);
    }
    // The body is boxed because its rest may be streamed to the caller.
    let mut body = Box::pin(body);
    let Ok(read) = read(body.as_mut(), most, account).await;
    match read {
        Read::Whole { data, trailers } => {
            let payload = take(&head, &data, trailers.as_ref());
            kept(payload, head, B::whole(data, trailers))
        }
        Read::TooLong { data, over } => kept(None, head, B::resumed(data, over, body)),
        Read::Broken { data, error } => {
            Kept::broken_off(Response::from_parts(head, B::broken(data, error)))
        }
    }
}

/// Collects pieces into one buffer.
///
/// A single piece is not copied. Many tiny pieces need no more memory than their bytes.
#[derive(Default)]
struct Gathered {
    one: Bytes,
    many: Vec<u8>,
}

impl Gathered {
    fn len(&self) -> usize {
        self.one.len() + self.many.len()
    }

    /// Returns the number of bytes of the buffer.
    fn memory(&self) -> usize {
        self.one.len() + self.many.capacity()
    }

    /// Adds a piece. All pieces together have at most `most` bytes.
    fn push(&mut self, piece: Bytes, most: usize) {
        if self.len() == 0 {
            self.one = piece;
            return;
        }
        let len = self.len() + piece.len();
        if len > self.many.capacity() {
            // Doubled, so that tiny pieces are not copied each time, but not beyond the limit.
            let room = self.many.capacity().saturating_mul(2).min(most).max(len);
            self.many.reserve_exact(room - self.many.len());
        }
        self.many.extend_from_slice(&take(&mut self.one));
        self.many.extend_from_slice(&piece);
    }

    fn finish(self) -> Bytes {
        if self.many.is_empty() { self.one } else { self.many.into() }
    }
}
