//! The kept frames of a body.

use std::{collections::VecDeque, mem};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::kept_bytes::KeptBytes;

/// The maximum number of kept frames of one body.
///
/// Many tiny frames would take far more memory than their bytes.
const MAX_FRAMES: usize = 1_024;

/// A frame that can be sent more than once.
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    /// Copies a frame. Returns `None` for an unknown kind of frame.
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, Some(trailers)) => Some(Self::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }

    /// Returns the number of bytes of body data. Trailers do not count.
    fn data_len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    /// Returns the number of bytes held in memory.
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => {
                trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
            }
        }
    }
}

/// The kept frames, which are the most recent ones from the source, without a gap.
pub(super) struct Prefix {
    pieces: VecDeque<Piece>,
    /// The number of earlier frames, which are no longer kept.
    gone: usize,
    /// The number of bytes that the kept frames hold, as counted in `kept_bytes`.
    bytes: usize,
    kept_bytes: KeptBytes,
    /// Set once the body has exceeded a limit.
    overflowed: bool,
}

impl Prefix {
    pub(super) fn new(kept_bytes: KeptBytes) -> Self {
        Self { pieces: VecDeque::new(), gone: 0, bytes: 0, kept_bytes, overflowed: false }
    }

    /// Returns whether every frame from the source so far is kept.
    pub(super) fn is_whole(&self) -> bool {
        self.gone == 0
    }

    /// Returns whether a source with at least `rest` more bytes could be kept to its end.
    pub(super) fn has_room_for(&self, rest: u64) -> bool {
        usize::try_from(rest)
            .ok()
            .and_then(|rest| rest.checked_add(self.bytes))
            .is_some_and(|all| all <= self.kept_bytes.config.max_request)
    }

    /// Counts the body, once, because it exceeds a limit.
    pub(super) fn overflow(&mut self) {
        if !mem::replace(&mut self.overflowed, true) {
            self.kept_bytes.count_overflow();
        }
    }

    /// Returns the position of the next frame from the source.
    pub(super) fn end(&self) -> usize {
        self.gone + self.pieces.len()
    }

    /// Returns the number of kept bytes of body data from `position` on.
    pub(super) fn data_from(&self, position: usize) -> u64 {
        let pieces = self.pieces.iter().skip(position.saturating_sub(self.gone));
        pieces.map(|piece| piece.data_len() as u64).sum()
    }

    /// Keeps a frame if the limits allow it. Returns whether it was kept.
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(piece) = Piece::of(frame) else { return false };
        let bytes = piece.len();
        let fits = self.has_room_for(bytes as u64)
            && self.pieces.len() < MAX_FRAMES
            && self.kept_bytes.take(bytes);
        if fits {
            self.bytes += bytes;
            self.pieces.push_back(piece);
        }
        fits
    }

    /// Keeps a frame that the running attempt must still send, whatever the limits.
    ///
    /// Returns `false` if the frame cannot be kept at all.
    pub(super) fn keep_for_running(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(piece) = Piece::of(frame) else { return false };
        let bytes = piece.len();
        self.kept_bytes.take_beyond(bytes);
        self.bytes += bytes;
        self.pieces.push_back(piece);
        true
    }

    /// Counts a frame that was sent and not kept.
    ///
    /// Returns the frames kept so far, which are useless without this frame.
    pub(super) fn pass(&mut self) -> Vec<Piece> {
        let freed = self.free_before(usize::MAX);
        self.gone += 1;
        freed
    }

    /// Returns a copy of the frame at `position`, or `None` if it is still in the source.
    pub(super) fn get(&self, position: usize) -> Option<Frame<Bytes>> {
        self.pieces.get(position.checked_sub(self.gone)?).map(Piece::frame)
    }

    /// Removes the frames before `position`.
    ///
    /// Returns the removed frames, because they must be dropped after the lock is released.
    pub(super) fn free_before(&mut self, position: usize) -> Vec<Piece> {
        let count = position.saturating_sub(self.gone).min(self.pieces.len());
        if count == 0 {
            return Vec::new();
        }
        let freed: Vec<Piece> = self.pieces.drain(..count).collect();
        let bytes = freed.iter().map(Piece::len).sum();
        self.gone += count;
        self.bytes -= bytes;
        self.kept_bytes.give_back(bytes);
        freed
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.kept_bytes.give_back(self.bytes);
    }
}
