use tokio::time::advance;
use tokio_test::task;

use super::*;
use crate::{call::completion::CallEnd, http::reporters::TestOwner};

const IDLE: Duration = Duration::from_secs(1);
const PASSED: Duration = Duration::from_millis(1_001);

/// Lets the time pass, but no timer fire.
fn pass(time: Duration) {
    assert!(task::spawn(advance(time)).poll().is_pending());
}

/// Creates a watch over a reader that leaves now.
fn left() -> (Arc<Watch>, Instant) {
    let now = Instant::now();
    let limits = BodyLimits { idle: Some(IDLE), deadline: None, began: now };
    let ambient = Ambient::capture();
    let owner = TestOwner::new(Some(IDLE));
    let watched = Watched { limits, ambient, awaits_status: false, body: None, owner };
    let watch = Watch::new(IDLE, watched, CallEnd::new().share());
    lock(&watch.state).reader = Reader::Left { since: now, waited: None };
    (watch, now)
}

/// Arms the timer of a watch, and does something each time before and after.
fn arm(watch: &Arc<Watch>, now: Instant, mut before: impl FnMut(), mut after: impl FnMut()) {
    watch.check_by(lock(&watch.state), now, |timer, at| {
        before();
        let armed = watch.arm(timer, at);
        after();
        armed
    });
}

fn has_ended(watch: &Watch) -> bool {
    watch.end.end(How::Panicked, Duration::ZERO).is_none()
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fires_while_it_is_armed_ends_the_call() {
    let wake = |watch: &Arc<Watch>| {
        pass(PASSED);
        watch.wake_by_ref();
    };
    for during in [true, false] {
        let (watch, now) = left();
        match during {
            true => arm(&watch, now, || wake(&watch), || ()),
            false => arm(&watch, now, || (), || wake(&watch)),
        }
        assert!(has_ended(&watch) && watch.begin_read().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_that_comes_too_early_ends_no_call() {
    let (watch, now) = left();
    let mut early = 3;
    arm(
        &watch,
        now,
        || (),
        || {
            if early > 0 {
                early -= 1;
                watch.wake_by_ref();
            }
        },
    );
    assert_eq!(early, 0);
    advance(IDLE - Duration::from_millis(1)).await;
    assert!(lock(&watch.state).armed.is_some());
    advance(Duration::from_millis(1)).await;
    assert!(has_ended(&watch));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_acts_while_the_timer_is_armed_is_not_forgotten() {
    // It reads on and leaves again, and the old timer has fired.
    let (watch, now) = left();
    let mut first = true;
    arm(
        &watch,
        now,
        || (),
        || {
            if std::mem::take(&mut first) {
                pass(PASSED);
                watch.wake_by_ref();
                assert!(watch.begin_read().is_none());
                let now = Instant::now();
                watch.end_read(Reader::Left { since: now, waited: None }, now);
            }
        },
    );
    advance(IDLE - Duration::from_millis(1)).await;
    assert!(lock(&watch.state).armed.is_some());
    advance(Duration::from_millis(1)).await;
    assert!(has_ended(&watch));

    // It has a second chance that lasts longer than its next wait.
    let (watch, now) = left();
    lock(&watch.state).extended = Some(now + IDLE * 10);
    arm(
        &watch,
        now,
        || (),
        || {
            watch.begin_read();
            watch.end_read(Reader::Left { since: now, waited: None }, now);
        },
    );
    advance(IDLE).await;
    assert!(has_ended(&watch));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_closed_while_its_timer_is_armed_leaves_nothing() {
    let (watch, now) = left();
    arm(&watch, now, || (), || watch.close());
    assert_eq!(Arc::strong_count(&watch), 1);
    assert!(!has_ended(&watch));
}
