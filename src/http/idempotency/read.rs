//! Reads a body into memory, up to a limit.

use std::{future::poll_fn, mem::take, pin::Pin};

use bytes::{Bytes, BytesMut};
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

/// Reads a body to its end, or until it has more than `most` bytes of data.
pub(super) async fn read<B: Body<Data = Bytes>>(
    mut body: Pin<&mut B>,
    most: usize,
) -> Read<B::Error> {
    let mut data = Gathered::default();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Read::Broken { data: data.finish(), error },
        };
        match frame.into_data() {
            Ok(piece) if piece.len() > most.saturating_sub(data.len()) => {
                return Read::TooLong { data: data.finish(), over: piece };
            }
            Ok(piece) => data.push(piece),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Read::Whole { data: data.finish(), trailers: Some(trailers) };
                }
            }
        }
        // A body that is always ready with an empty frame would otherwise never yield, and no
        // timeout could act.
        consume_budget().await;
    }
    Read::Whole { data: data.finish(), trailers: None }
}

/// Collects pieces into one buffer.
///
/// A single piece is not copied. Many tiny pieces need no more memory than their bytes.
#[derive(Default)]
struct Gathered {
    one: Bytes,
    many: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.one.len() + self.many.len()
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.one = piece;
            return;
        }
        if !self.one.is_empty() {
            let one = take(&mut self.one);
            self.many.reserve(one.len() + piece.len());
            self.many.extend_from_slice(&one);
        }
        self.many.extend_from_slice(&piece);
    }

    fn finish(self) -> Bytes {
        if self.many.is_empty() { self.one } else { self.many.freeze() }
    }
}
