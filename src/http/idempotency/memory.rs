//! The memory of the request bodies that a reader holds, bounded together.
//!
//! A body that waits for more data is parked here with the memory that it holds. If another body
//! needs memory and there is none, the parked body that progressed least is ended.

use std::{
    collections::BTreeMap,
    fmt,
    mem::{replace, take},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::{
    call::lock::lock,
    error::IdempotencyReason,
    http::read::{BodyAccount, HeldMemory, Memory},
};

/// The memory of all bodies of a reader.
pub(super) struct BodyMemory {
    max: usize,
    held: AtomicUsize,
    parked: Mutex<Parked>,
}

impl BodyMemory {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0), parked: Mutex::default() })
    }

    /// Returns the number of bytes that bodies hold now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.max);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Ends the parked body that progressed least. Returns whether there was one.
    fn end_one(&self) -> bool {
        let ended = lock(&self.parked).remove_least();
        let Some(body) = ended else { return false };
        // Its task frees the memory when it runs, which is soon, because it is woken.
        self.give_back(body.bytes);
        body.waker.wake();
        true
    }
}

impl Memory for BodyMemory {
    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for BodyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyMemory")
            .field("max", &self.max)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

/// The number of classes of sizes, one for each number of bits.
const CLASSES: usize = usize::BITS as usize + 1;

/// The part of its length, as a divisor, by which a body must grow to progress.
const PROGRESS: usize = 8;

/// The bodies that wait for more data and hold memory.
///
/// Time is counted in the bytes that bodies had received when they were parked, so that the number
/// of frames does not make others look old. Reading a clock for each frame would cost more, and
/// would not show who progresses less than others.
///
/// Age is weighed by memory, so a large body that pauses has less time than a small one. An upload
/// of 10 MiB can be ended after others have received about 86 KiB, if these are many small bodies.
struct Parked {
    now: u64,
    /// The bodies of each class of sizes, in the order of their last progress.
    classes: [BTreeMap<u64, ParkedBody>; CLASSES],
}

struct ParkedBody {
    bytes: usize,
    waker: Waker,
}

/// The key of a parked body.
#[derive(Clone, Copy)]
struct Place {
    class: usize,
    at: u64,
}

impl Default for Parked {
    fn default() -> Self {
        Self { now: 0, classes: std::array::from_fn(|_| BTreeMap::new()) }
    }
}

impl Parked {
    /// Removes the body with the most memory times bytes received since its last progress.
    ///
    /// A small body that pauses is therefore not ended for a large one that has stalled. Only the
    /// first body of each class is compared.
    fn remove_least(&mut self) -> Option<ParkedBody> {
        let first = |(class, bodies): (usize, &BTreeMap<u64, ParkedBody>)| {
            let (&at, body) = bodies.first_key_value()?;
            let age = self.now - at + 1;
            Some((u128::from(age) * body.bytes as u128, class))
        };
        let (_, class) = self.classes.iter().enumerate().filter_map(first).max()?;
        self.classes[class].pop_first().map(|(_, body)| body)
    }
}

/// The memory of a body that is being read.
pub(super) struct ReadMemory {
    memory: Arc<BodyMemory>,
    /// The bytes that the body holds.
    bytes: usize,
    /// Its place while it is parked.
    place: Option<Place>,
    /// The length of its data, and the part of it that the time of all bodies has counted.
    length: usize,
    counted: usize,
    /// The time of its last progress, and the length then.
    progress: (u64, usize),
}

/// The reason why a body cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoMemory {
    /// It progressed least of all bodies that held memory.
    Ended,
    /// All memory is held by bodies that cannot be ended.
    Full,
}

impl NoMemory {
    pub(super) fn reason(self) -> IdempotencyReason {
        match self {
            Self::Ended => IdempotencyReason::BodyIncomplete,
            Self::Full => IdempotencyReason::Full,
        }
    }
}

impl ReadMemory {
    pub(super) fn of(memory: &Arc<BodyMemory>) -> Self {
        let memory = Arc::clone(memory);
        Self { memory, bytes: 0, place: None, length: 0, counted: 0, progress: (0, 0) }
    }

    /// Returns the memory of a body that was read to its end.
    pub(super) fn finish(mut self) -> Result<Option<HeldMemory>, NoMemory> {
        self.unpark()?;
        let bytes = take(&mut self.bytes);
        Ok((bytes > 0).then(|| HeldMemory::new(Arc::clone(&self.memory) as _, bytes)))
    }

    /// Removes the body from the parked ones. Fails if it was ended.
    fn unpark(&mut self) -> Result<(), NoMemory> {
        let Some(Place { class, at }) = self.place.take() else { return Ok(()) };
        let body = lock(&self.memory.parked).classes[class].remove(&at);
        if body.is_none() {
            // It was given back when the body was ended.
            take(&mut self.bytes);
            return Err(NoMemory::Ended);
        }
        Ok(())
    }
}

impl BodyAccount for ReadMemory {
    type Error = NoMemory;

    fn grow(&mut self, length: usize, memory: usize) -> Result<(), NoMemory> {
        self.unpark()?;
        self.length = length;
        let more = memory.saturating_sub(self.bytes);
        while !self.memory.take(more) {
            if !self.memory.end_one() {
                return Err(NoMemory::Full);
            }
        }
        self.bytes += more;
        Ok(())
    }

    fn park(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, NoMemory> {
        let bytes = self.bytes;
        if bytes == 0 {
            return Ok(Poll::Pending);
        }
        // Cloned before the lock, and the old one is dropped after it, because both run other code.
        let waker = cx.waker().clone();
        let _old;
        let mut parked = lock(&self.memory.parked);
        if let Some(Place { class, at }) = self.place {
            let Some(body) = parked.classes[class].get_mut(&at) else {
                drop(parked);
                return self.unpark().map(|()| Poll::Pending);
            };
            _old = replace(&mut body.waker, waker);
            return Ok(Poll::Pending);
        }
        parked.now += (self.length - replace(&mut self.counted, self.length)) as u64;
        // Tiny frames are no progress of a large body. Otherwise, holding much memory would cost a
        // caller only a few bytes now and then.
        if self.length - self.progress.1 > self.progress.1 / PROGRESS {
            self.progress = (parked.now, self.length);
        }
        let place =
            Place { class: (usize::BITS - bytes.leading_zeros()) as usize, at: self.progress.0 };
        parked.classes[place.class].insert(place.at, ParkedBody { bytes, waker });
        self.place = Some(place);
        Ok(Poll::Pending)
    }
}

impl Drop for ReadMemory {
    fn drop(&mut self) {
        let _ = self.unpark();
        if self.bytes > 0 {
            self.memory.give_back(self.bytes);
        }
    }
}
