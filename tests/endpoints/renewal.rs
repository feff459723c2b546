//! A service that fails to become ready is made anew.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

use buttress::testing::task::Spawned;

use super::*;

/// Reports an error instead of readiness if it is the first one that was made.
#[derive(Clone)]
struct Numbered(u32);

impl Service<()> for Numbered {
    type Response = u32;
    type Error = &'static str;
    type Future = std::future::Ready<Result<u32, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(if self.0 == 0 { Err("dead") } else { Ok(()) })
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(self.0))
    }
}

#[test]
fn calls_that_fail_while_a_service_is_made_make_no_other() {
    static MADE: AtomicU32 = AtomicU32::new(0);
    static ENDPOINTS: OnceLock<Endpoints<Name, Numbered>> = OnceLock::new();
    let endpoints = Endpoints::new(["a"], |_: &Name| {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // A call of another thread, which still finds the dead service.
        if let Some(endpoints) = ENDPOINTS.get().filter(|_| number < 5) {
            let result = Spawned::new(endpoints.clone().oneshot(())).poll();
            assert_eq!(result, Poll::Ready(Err(Error::Service("dead"))));
        }
        Numbered(number)
    });
    let endpoints = ENDPOINTS.get_or_init(|| endpoints);
    let mut call = Spawned::new(endpoints.clone().oneshot(()));
    assert_eq!(call.poll(), Poll::Ready(Err(Error::Service("dead"))));
    assert_eq!(MADE.load(Ordering::Relaxed), 2);
    let mut call = Spawned::new(endpoints.clone().oneshot(()));
    assert_eq!(call.poll(), Poll::Ready(Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_fails_no_more_than_the_call_and_is_called_again() {
    let made = AtomicU32::new(0);
    let endpoints = Endpoints::new(["a"], move |_: &Name| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        assert_ne!(number, 1, "a factory");
        Numbered(number)
    });
    let results = [(); 3].map(|()| Spawned::new(endpoints.clone().oneshot(())).poll());
    let dead = Poll::Ready(Err(Error::Service("dead")));
    assert_eq!(results, [dead.clone(), dead, Poll::Ready(Ok(2))]);
    let state = endpoints.handle().states().remove(0);
    assert_eq!((state.calls, state.failures, state.in_flight), (3, 2, 0));
}
