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
use http::HeaderMap;
use http_body::Body;
use tokio::task::coop::consume_budget;

/// The result of reading a body.
pub(super) enum Read<E> {
    Whole {
        data: Bytes,
        trailers: Option<HeaderMap>,
    },
    /// The body is longer than the limit. `over` is the frame that exceeded it.
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

/// The account of the memory of a body that is being read.
pub(super) trait BodyAccount {
    /// The reason why the body may hold no more memory.
    type Error;

    /// Accounts for a body that has `length` bytes of data now, in a buffer of `memory` bytes.
    fn grow(&mut self, length: usize, memory: usize) -> Result<(), Self::Error>;

    /// Is called when the body waits for more data. The task is woken if the body is ended.
    fn park(&mut self, cx: &mut Context<'_>) -> Result<(), Self::Error>;
}

/// The account of a body whose memory is bounded elsewhere.
impl BodyAccount for () {
    type Error = Infallible;

    fn grow(&mut self, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn park(&mut self, _: &mut Context<'_>) -> Result<(), Infallible> {
        Ok(())
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

/// Reads a body to its end, or until it has more than `most` bytes of data.
pub(super) async fn read<B: Body<Data = Bytes>, A: BodyAccount>(
    mut body: Pin<&mut B>,
    most: usize,
    memory: &mut A,
) -> Result<Read<B::Error>, A::Error> {
    let mut data = Gathered::default();
    while let Some(frame) = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Ok(frame)),
        Poll::Pending => match memory.park(cx) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(Err(ended)),
        },
    })
    .await?
    {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Ok(Read::Broken { data: data.finish(), error }),
        };
        match frame.into_data() {
            Ok(piece) if piece.len() > most.saturating_sub(data.len()) => {
                return Ok(Read::TooLong { data: data.finish(), over: piece });
            }
            Ok(piece) => {
                data.push(piece, most);
                memory.grow(data.len(), data.memory())?;
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
    Ok(Read::Whole { data: data.finish(), trailers: None })
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
