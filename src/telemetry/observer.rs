//! Observers of events.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::event::{Event, Source};

/// An observer of the events of all layers that are registered in one
/// [`Registry`](super::Registry).
///
/// Events arrive by reference, on the task or thread that caused them, and never under a lock. An
/// observer may therefore use every handle and the registry, but it must not block. It must not
/// cause an event in each event, because that would never end. A panic of an observer is caught and
/// counted. It does not harm the call.
///
/// ```
/// use buttress::telemetry::{Event, Observer, Registry, Source};
///
/// /// Calls somebody when a circuit opens.
/// struct Pager;
///
/// impl Observer for Pager {
///     fn on_event(&self, source: Source<'_>, event: &Event<'_>) {
///         if let Event::CircuitOpened { reason, .. } = event {
///             println!("{}: the circuit opened ({reason})", source.layer());
///         }
///     }
/// }
///
/// let registry = Registry::new();
/// registry.observe(Pager);
/// ```
pub trait Observer: Send + Sync {
    /// Takes an event.
    fn on_event(&self, source: Source<'_>, event: &Event<'_>);

    /// Returns the events that the observer wants. It is asked once.
    ///
    /// Default: `Interest::Rare`.
    fn interest(&self) -> Interest {
        Interest::Rare
    }
}

/// The events that an [`Observer`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// All events except the ends of calls and attempts, and measured durations.
    Rare,
    /// All events. Each call and each attempt then costs a call of the observer.
    All,
}

/// The observers of one registry.
///
/// They are only added, so reading needs no lock, and an observer may add another one.
#[derive(Default)]
pub(crate) struct Observers {
    first: Link,
    wants_all: AtomicBool,
    panics: AtomicU64,
}

type Link = OnceLock<Box<Node>>;

struct Node {
    observer: Box<dyn Observer>,
    interest: Interest,
    next: Link,
}

impl Observers {
    pub(super) fn add(&self, observer: Box<dyn Observer>) {
        let interest = observer.interest();
        let mut node = Box::new(Node { observer, interest, next: Link::new() });
        let mut link = &self.first;
        while let Err(back) = link.set(node) {
            node = back;
            // Another node is there, so there is a next link.
            let Some(taken) = link.get() else { continue };
            link = &taken.next;
        }
        if interest == Interest::All {
            self.wants_all.store(true, Ordering::Relaxed);
        }
    }

    /// Returns `true` if an observer wants the events of calls that go well.
    #[inline]
    pub(crate) fn wants_all(&self) -> bool {
        self.wants_all.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    /// Returns the number of panics.
    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Tells the observers of an event.
    #[inline]
    pub(super) fn tell(&self, source: Source<'_>, event: &Event<'_>) {
        if let Some(first) = self.first.get() {
            self.tell_from(first, source, event);
        }
    }

    #[cold]
    fn tell_from(&self, first: &Node, source: Source<'_>, event: &Event<'_>) {
        let mut node = Some(first);
        while let Some(Node { observer, interest, next }) = node {
            if *interest == Interest::All || event.is_rare() {
                // Unwind safe, because only the observer itself can see what its panic left behind.
                let told = catch_unwind(AssertUnwindSafe(|| observer.on_event(source, event)));
                if let Err(panic) = told {
                    self.panics.fetch_add(1, Ordering::Relaxed);
                    // The value of the panic may itself panic when it is dropped.
                    _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
                }
            }
            node = next.get().map(|next| &**next);
        }
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        // One after the other, because a long list would otherwise overflow the stack.
        let mut next = self.first.take();
        while let Some(mut node) = next {
            next = node.next.take();
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").field("panics", &self.panics()).finish_non_exhaustive()
    }
}
