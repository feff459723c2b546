use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use buttress::telemetry::{Control, Registry};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, ServiceExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_key_that_was_forgotten_is_asked_for_again() {
    let backend = Backend::after(Duration::ZERO);
    let cache = cache().build().unwrap();
    let (service, handle) = (cache.layer(backend.clone()), cache.handle());
    for key in [1, 2] {
        service.clone().oneshot(key).await.unwrap();
    }
    handle.forget(&1);
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 3);
    assert_eq!(service.clone().oneshot(2).await.unwrap(), 2);
    handle.forget_all();
    assert_eq!((handle.counts().entries, handle.counts().bytes), (0, 0));
    assert_eq!(service.clone().oneshot(2).await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn forgotten_while_under_way() {
    let backend = Backend::after(SECOND);
    let cache = cache().build().unwrap();
    let (service, handle) = (cache.layer(backend.clone()), cache.handle());
    for all in [false, true] {
        let calls = backend.calls();
        let mut before = task::spawn(service.clone().oneshot(1));
        assert_pending!(before.poll());
        settle().await;
        if all {
            handle.forget_all()
        } else {
            handle.forget(&1)
        }
        // A caller who comes after does not get what was asked for before.
        let mut after = task::spawn(service.clone().oneshot(1));
        assert_pending!(after.poll());
        settle().await;
        tokio::time::advance(SECOND).await;
        settle().await;
        assert_eq!(assert_ready_ok!(before.poll()), calls + 1);
        assert_eq!(assert_ready_ok!(after.poll()), calls + 2);
        // The later call is kept, whichever ended first.
        assert_eq!(service.clone().oneshot(1).await.unwrap(), calls + 2);
        handle.forget_all();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_key_was_forgotten_is_not_kept() {
    let backend = Backend::after(SECOND);
    let cache = cache().build().unwrap();
    let (service, handle) = (cache.layer(backend.clone()), cache.handle());
    let mut before = task::spawn(service.clone().oneshot(1));
    assert_pending!(before.poll());
    settle().await;
    handle.forget(&1);
    tokio::time::advance(SECOND).await;
    settle().await;
    assert_eq!(assert_ready_ok!(before.poll()), 1);
    assert_eq!(handle.counts().entries, 0);
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 2);
}

thread_local! {
    static ON_CLONE: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

/// A key that calls a closure when it is cloned next.
#[derive(Hash, PartialEq, Eq)]
struct Key(u32);

impl Clone for Key {
    fn clone(&self) -> Self {
        if let Some(call) = ON_CLONE.take() {
            call();
        }
        Self(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_from_before_a_key_was_forgotten_displaces_no_later_call() {
    let backend = Backend::after(SECOND);
    let cache = CacheLayer::by_fn(|key: &u32| Some(Key(*key))).build().unwrap();
    let (service, handle) = (cache.layer(backend.clone()), cache.handle());
    let mut before = task::spawn(service.clone().oneshot(1));
    let later = Rc::new(RefCell::new(task::spawn(service.clone().oneshot(1))));
    // The first caller has seen that there is no entry, and is about to begin.
    let polled = Rc::clone(&later);
    ON_CLONE.set(Some(Box::new(move || {
        handle.forget(&Key(1));
        assert_pending!(polled.borrow_mut().poll());
    })));
    assert_pending!(before.poll());
    settle().await;
    tokio::time::advance(SECOND).await;
    settle().await;
    assert_eq!(assert_ready_ok!(before.poll()), 1);
    assert_eq!(assert_ready_ok!(later.borrow_mut().poll()), 1);
    assert_eq!(service.oneshot(1).await.unwrap(), 1);
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_registry_forgets_all_entries() {
    let (registry, backend) = (Registry::new(), Backend::after(Duration::ZERO));
    let cache = cache().name("rates").build().unwrap().register(&registry);
    let service = cache.layer(backend.clone());
    service.clone().oneshot(1).await.unwrap();
    assert_eq!(cache.handle().counts().entries, 1);
    assert!(registry.control(None, "rates", Control::ForgetAll, "a test") > 0);
    assert_eq!(cache.handle().counts().entries, 0);
}
