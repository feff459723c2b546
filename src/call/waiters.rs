//! A queue of waiting tasks, in order of arrival. A task can leave from any place.

use std::{
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// Wakes tasks, which runs foreign code. No lock may be held.
///
/// A waker that panics costs no other task its wake-up.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// The waiting tasks, in order of arrival.
///
/// A lock of the owner protects the queue. The owner wakes the returned wakers after it has
/// released the lock.
///
/// The links are indices into one vector. Therefore a waiter can leave from the middle in constant
/// time, and waiting allocates only when the queue is longer than ever before.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    nodes: Vec<Node>,
    first_free: Option<usize>,
    head: Option<usize>,
    tail: Option<usize>,
}

/// The place of one waiter. Its owner must remove it exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(usize);

impl Key {
    /// Returns the index of the place, which a later waiter may reuse.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug)]
enum Node {
    Waiting {
        waker: Waker,
        previous: Option<usize>,
        next: Option<usize>,
    },
    /// The waiter was woken for its turn, and has not been polled since.
    Called,
    Free {
        next: Option<usize>,
    },
}

impl Waiters {
    /// Adds a waiter at the end.
    pub(crate) fn push(&mut self, waker: Waker) -> Key {
        let node = Node::Waiting { waker, previous: self.tail, next: None };
        let index = match self.first_free {
            Some(index) => {
                if let Node::Free { next } = self.nodes[index] {
                    self.first_free = next;
                }
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        match self.tail {
            Some(tail) => self.link_next(tail, Some(index)),
            None => self.head = Some(index),
        }
        self.tail = Some(index);
        Key(index)
    }

    /// Adds a waiter, or renews its place. Drop the returned waker after the lock is released.
    pub(crate) fn join(&mut self, place: Option<Key>, waker: Waker) -> (Key, Option<Waker>) {
        match place {
            Some(place) if !self.is_called(place) => (place, self.set_waker(place, waker)),
            Some(called) => {
                let outdated = self.remove(called).err();
                (self.push(waker), outdated)
            }
            None => (self.push(waker), None),
        }
    }

    /// Calls the first waiter, which then no longer waits. The owner must wake the returned waker.
    pub(crate) fn call_first(&mut self) -> Option<Waker> {
        self.call(self.head?)
    }

    /// Calls all waiters, in order of arrival. The owner must wake the returned wakers.
    pub(crate) fn call_all(&mut self) -> impl Iterator<Item = Waker> + '_ {
        iter::from_fn(|| self.call_first())
    }

    /// Calls the last waiter, which then no longer waits. The owner must wake the returned waker.
    pub(crate) fn call_last(&mut self) -> Option<Waker> {
        self.call(self.tail?)
    }

    fn call(&mut self, index: usize) -> Option<Waker> {
        match self.unlink(index, Node::Called) {
            Node::Waiting { waker, .. } => Some(waker),
            Node::Called | Node::Free { .. } => None,
        }
    }

    /// Returns the place of the first waiter.
    pub(crate) fn first(&self) -> Option<Key> {
        self.head.map(Key)
    }

    /// Returns `true` if no task waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Returns `true` if at least two tasks wait.
    pub(crate) fn are_several(&self) -> bool {
        self.head != self.tail
    }

    /// Returns `true` if the waiter has been called.
    pub(crate) fn is_called(&self, key: Key) -> bool {
        matches!(self.nodes[key.0], Node::Called)
    }

    /// Replaces the waker of a waiter. Drop the returned waker after the lock is released.
    pub(crate) fn set_waker(&mut self, key: Key, new: Waker) -> Option<Waker> {
        match &mut self.nodes[key.0] {
            Node::Waiting { waker, .. } => Some(std::mem::replace(waker, new)),
            Node::Called | Node::Free { .. } => Some(new),
        }
    }

    /// Removes a waiter. Returns `Ok` if it had been called, and otherwise its waker.
    ///
    /// Drop the waker after the lock is released.
    pub(crate) fn remove(&mut self, key: Key) -> Result<(), Waker> {
        let free = Node::Free { next: self.first_free };
        let removed = match self.nodes[key.0] {
            Node::Waiting { .. } => self.unlink(key.0, free),
            Node::Called | Node::Free { .. } => std::mem::replace(&mut self.nodes[key.0], free),
        };
        self.first_free = Some(key.0);
        match removed {
            Node::Waiting { waker, .. } => Err(waker),
            Node::Called | Node::Free { .. } => Ok(()),
        }
    }

    /// Takes a waiting node out of the order and puts `replacement` in its place.
    fn unlink(&mut self, index: usize, replacement: Node) -> Node {
        let node = std::mem::replace(&mut self.nodes[index], replacement);
        if let Node::Waiting { previous, next, .. } = node {
            match previous {
                Some(previous) => self.link_next(previous, next),
                None => self.head = next,
            }
            match next {
                Some(next) => self.link_previous(next, previous),
                None => self.tail = previous,
            }
        }
        node
    }

    fn link_next(&mut self, index: usize, to: Option<usize>) {
        if let Node::Waiting { next, .. } = &mut self.nodes[index] {
            *next = to;
        }
    }

    fn link_previous(&mut self, index: usize, to: Option<usize>) {
        if let Node::Waiting { previous, .. } = &mut self.nodes[index] {
            *previous = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake};

    use tokio_test::task::spawn;

    use super::*;

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }

    #[test]
    fn a_waker_that_panics_costs_no_other_task_its_wake_up() {
        let mut task = spawn(());
        let other = task.enter(|cx, _| cx.waker().clone());
        wake_all([Arc::new(Panics).into(), other]);
        assert!(task.is_woken());
    }

    fn waker() -> Waker {
        Waker::noop().clone()
    }

    #[test]
    fn waiters_are_called_in_order_and_leave_from_anywhere() {
        let mut waiters = Waiters::default();
        let keys: Vec<Key> = (0..5).map(|_| waiters.push(waker())).collect();
        assert!(waiters.remove(keys[0]).is_err());
        assert!(waiters.remove(keys[2]).is_err());
        assert!(waiters.remove(keys[4]).is_err());
        assert!(waiters.call_first().is_some());
        assert!(waiters.is_called(keys[1]) && !waiters.is_called(keys[3]));
        assert!(waiters.call_first().is_some());
        assert!(waiters.call_first().is_none());
        assert!(waiters.remove(keys[1]).is_ok());
        assert!(waiters.remove(keys[3]).is_ok());
    }

    #[test]
    fn the_last_waiter_can_be_called_before_the_others() {
        let mut waiters = Waiters::default();
        assert!(waiters.is_empty() && !waiters.are_several());
        let keys: Vec<Key> = (0..3).map(|_| waiters.push(waker())).collect();
        for last in [2, 1] {
            assert!(waiters.are_several());
            assert!(waiters.call_last().is_some());
            assert!(waiters.is_called(keys[last]) && !waiters.is_called(keys[last - 1]));
        }
        assert!(!waiters.are_several() && !waiters.is_empty());
        assert!(waiters.remove(keys[0]).is_err());
        assert!(waiters.is_empty() && waiters.call_last().is_none());
    }

    #[test]
    fn places_are_used_again() {
        let mut waiters = Waiters::default();
        for _ in 0..1_000 {
            let first = waiters.push(waker());
            let second = waiters.push(waker());
            assert!(waiters.remove(first).is_err());
            assert!(waiters.call_first().is_some());
            assert!(waiters.remove(second).is_ok());
        }
        assert_eq!(waiters.nodes.len(), 2);
    }
}
