use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    time::Duration,
};

use super::*;
use crate::{
    Error, Fault,
    call::{
        account::{Account, End, How, Stamp},
        attempt::enter_first,
        ended_call::Measured,
        lock::lock,
    },
};

#[derive(Default)]
struct Noting(Mutex<Vec<How>>);

impl Account for Noting {
    fn settle(&self, _: Stamp, end: &End) {
        lock(&self.0).push(end.how);
    }
}

fn ended(noting: &Arc<Noting>, known: Known) -> EndedCall {
    EndedCall::new(Arc::clone(noting) as _, Measured::new(0, 0, known), 7)
}

fn current() -> Settler {
    Settler::current().unwrap()
}

fn settling_part(part: &u64) -> Settling {
    settling::<_, ()>(part, None)
}

const OUTCOME: Outcome = Outcome::Failure(Fault::Permanent);
const RESULT: Result<&(), &Error<()>> = Ok(&());

#[test]
fn a_call_is_settled_by_the_part_that_polled_it_and_by_no_other() {
    let noting = Arc::new(Noting::default());
    let (part, other) = (0_u64, 0_u64);
    let settling_it = settling_part(&part);
    let settler = current();
    let inner = settling_part(&other);
    ended(&noting, Known::Failed).hand_over(settler);
    assert!(inner.ended().is_none());
    assert_eq!(*lock(&noting.0), [How::Complete(Outcome::Failure(Fault::Transient), None)]);
    ended(&noting, Known::Good).hand_over(settler);
    drop(ended(&noting, Known::Good));
    let Beneath { call, tried, .. } = settling_it.ended().unwrap();
    assert!(tried.contains(7));
    call.unwrap().settle(OUTCOME, RESULT, None, None);
    let known = How::Complete(Outcome::Success, None);
    assert_eq!(lock(&noting.0)[1..], [known, How::Complete(OUTCOME, None)]);
    assert_eq!(Settler::current(), None);
}

#[test]
fn a_call_that_ends_while_another_layer_pays_is_settled_by_the_part_around() {
    let noting = Arc::new(Noting::default());
    let part = 0_u64;
    let settling_it = settling_part(&part);
    let budget = Arc::new(());
    let paying = paying(Some(&budget), || {});
    ended(&noting, Known::Good).hand_over(current());
    assert_eq!(PART.get().paid, Arc::as_ptr(&budget).addr());
    drop(paying);
    assert_eq!(PART.get().paid, 0);
    settling_it.ended().unwrap().call.unwrap().settle(OUTCOME, RESULT, None, None);
    assert_eq!(*lock(&noting.0), [How::Complete(OUTCOME, None)]);
}

#[test]
fn a_call_that_is_dropped_after_a_result_does_not_get_its_outcome() {
    let (winner, loser) = (Arc::new(Noting::default()), Arc::new(Noting::default()));
    for loser_is_first in [false, true] {
        let part = 0_u64;
        let settling_it = settling_part(&part);
        let dropped = || ended(&loser, Known::Dropped).hand_over(current());
        if loser_is_first {
            dropped();
        }
        ended(&winner, Known::Good).hand_over(current());
        if !loser_is_first {
            dropped();
        }
        settling_it.ended().unwrap().call.unwrap().settle(OUTCOME, RESULT, None, None);
        assert_eq!(lock(&winner.0).pop(), Some(How::Complete(OUTCOME, None)));
        assert_eq!(lock(&loser.0).pop(), Some(How::DroppedWhileReading));
    }
}

#[test]
fn a_call_that_is_part_of_another_one_gets_its_outcome_and_one_before_it_does_not() {
    let [before, inner, outer] = [(); 3].map(|()| Arc::new(Noting::default()));
    let part = 0_u64;
    let settling_it = settling_part(&part);
    let first = current();
    ended(&before, Known::Good).hand_over(first);
    let second = current();
    ended(&inner, Known::Good).hand_over(second);
    assert_eq!(*lock(&before.0), [How::Complete(Outcome::Success, None)]);
    // It was polled first.
    ended(&outer, Known::Good).hand_over(first);
    settling_it.ended().unwrap().call.unwrap().settle(OUTCOME, RESULT, None, None);
    assert_eq!(*lock(&inner.0), [How::Complete(OUTCOME, None)]);
    assert_eq!(*lock(&outer.0), [How::Complete(OUTCOME, None)]);
}

#[cfg(feature = "http")]
#[test]
fn a_withheld_call_that_another_part_drops_is_not_settled_by_it() {
    let noting = Arc::new(Noting::default());
    let (part, other) = (0_u64, 0_u64);
    let settling_it = settling_part(&part);
    ended(&noting, Known::Good).hand_over(current());
    let withheld = withhold();
    assert!(settling_it.ended().is_none());
    let settling_other = settling_part(&other);
    withheld.hand_over();
    assert!(settling_other.ended().is_none());
    assert_eq!(*lock(&noting.0), [How::Complete(Outcome::Success, None)]);
}

#[test]
fn a_call_that_a_panic_leaves_behind_reaches_no_later_part() {
    let noting = Arc::new(Noting::default());
    let part = 0_u64;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _settling = settling_part(&part);
        ended(&noting, Known::Good).hand_over(current());
        panic!("a layer");
    }));
    assert!(panicked.is_err());
    assert_eq!(lock(&noting.0).len(), 1);
    assert!(settling_part(&part).ended().is_none());
}

#[test]
fn a_retry_tells_the_one_around_which_endpoints_it_has_tried() {
    let part = 0_u64;
    let outer = settling_part(&part);
    {
        let inner = settling_part(&part);
        let mut tried = Tried::NONE;
        (1..=5).for_each(|endpoint| tried.add(endpoint));
        drop(inner);
        tried.report();
    }
    let tried = outer.ended().unwrap().tried;
    assert_eq!(
        (1..=5).map(|it| tried.contains(it)).collect::<Vec<_>>(),
        [false, true, true, true, true]
    );
    let entered = tried.enter();
    assert_eq!(Tried::current(), tried);
    let hidden = clear();
    assert!(Tried::current().is_empty());
    drop((hidden, entered));
    assert!(Tried::current().is_empty());
}

#[test]
fn a_number_that_is_passed_on_takes_no_endpoints_away() {
    let (part, other) = (0_u64, 0_u64);
    let _attempt = enter_first(1);
    let outer = settling_part(&part);
    let inner = settling_part(&other);
    let mut tried = Tried::NONE;
    tried.add(7);
    tried.report();
    report_number(3);
    let beneath = inner.ended().unwrap();
    assert_eq!((beneath.tried, beneath.number), (tried, 3));
    let around = outer.ended().unwrap();
    assert_eq!((around.tried, around.number), (Tried::NONE, 3));
}

#[test]
fn a_part_gets_no_report_of_the_calls_beside_it_and_takes_none_away() {
    let (part, other) = (0_u64, 0_u64);
    let _attempt = enter_first(1);
    let outer = settling_part(&part);
    let mut beside = Tried::NONE;
    beside.add(7);
    beside.report();
    report_number(5);
    assert!(settling_part(&other).ended().is_none());
    let inner = settling_part(&other);
    let mut tried = Tried::NONE;
    tried.add(8);
    tried.report();
    report_number(2);
    let beneath = inner.ended().unwrap();
    assert_eq!((beneath.tried, beneath.number), (tried, 2));
    let around = outer.ended().unwrap();
    assert_eq!((around.tried, around.number), (beside, 5));
}

#[test]
fn a_limit_that_ends_a_call_early_is_not_its_own() {
    let noting = Arc::new(Noting::default());
    let late = Error::<()>::rejected(crate::error::TimedOut::by(None, Duration::from_secs(2)));
    for (ran, how) in
        [(1, How::Complete(Outcome::Failure(Fault::TimedOut), None)), (0, How::DroppedWhileReading)]
    {
        let measured = Measured::new(ran * 1_000_000_000, 0, Known::Dropped);
        let call = EndedCall::new(Arc::clone(&noting) as _, measured, 1);
        call.settle(Outcome::Failure(Fault::TimedOut), Err::<&(), _>(&late), None, None);
        assert_eq!(lock(&noting.0).pop(), Some(how));
    }
}
