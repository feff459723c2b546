//! What is kept of a body.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::kept_bytes::KeptBytes;

/// Most frames that are kept of one body: many tiny ones would take far more room than their bytes.
const MAX_FRAMES: usize = 1_024;

/// A frame that can be sent more than once.
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    /// A copy of a frame; `None` of a kind that is not known.
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

    /// The bytes of the body, which trailers are no part of.
    fn data_len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    /// The bytes that are held.
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => {
                trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
            }
        }
    }
}

/// The frames that were taken from a source and are kept: the last ones, without a gap.
pub(super) struct Prefix {
    pieces: VecDeque<Piece>,
    /// How many frames were taken from the source before these, and are gone.
    gone: usize,
    /// The bytes that these hold, as they were counted.
    bytes: usize,
    kept_bytes: KeptBytes,
}

impl Prefix {
    pub(super) fn new(kept_bytes: KeptBytes) -> Self {
        Self { pieces: VecDeque::new(), gone: 0, bytes: 0, kept_bytes }
    }

    /// Whether this is all that was taken from the source, from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.gone == 0
    }

    /// Whether a source that has at least `rest` more could be kept to its end.
    pub(super) fn has_room_for(&self, rest: u64) -> bool {
        usize::try_from(rest)
            .ok()
            .and_then(|rest| rest.checked_add(self.bytes))
            .is_some_and(|all| all <= self.kept_bytes.config.max_request)
    }

    /// Where the frame is that the source gives next.
    pub(super) fn end(&self) -> usize {
        self.gone + self.pieces.len()
    }

    /// Bytes of the body from `position` on, as far as they are kept.
    pub(super) fn data_from(&self, position: usize) -> u64 {
        let pieces = self.pieces.iter().skip(position.saturating_sub(self.gone));
        pieces.map(|piece| piece.data_len() as u64).sum()
    }

    /// Keeps a frame, if there is room.
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

    /// Keeps a frame that an attempt which runs has still to send, and so past every limit. `false` if
    /// it cannot be kept at all.
    pub(super) fn keep_for_running(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(piece) = Piece::of(frame) else { return false };
        let bytes = piece.len();
        self.kept_bytes.take_beyond(bytes);
        self.bytes += bytes;
        self.pieces.push_back(piece);
        true
    }

    /// Counts a frame that was sent and not kept. Returns what was kept, which without it is no use.
    pub(super) fn pass(&mut self) -> Vec<Piece> {
        let freed = self.free_before(usize::MAX);
        self.gone += 1;
        freed
    }

    /// A copy of the frame at `position`; `None` if it is still in the source.
    pub(super) fn get(&self, position: usize) -> Option<Frame<Bytes>> {
        self.pieces.get(position.checked_sub(self.gone)?).map(Piece::frame)
    }

    /// Keeps no longer what comes before `position`. Returns it, to be dropped after the lock.
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
