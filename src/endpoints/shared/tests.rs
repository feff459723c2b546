use std::sync::mpsc;

use super::*;
use crate::call::ended_call::Known;

fn endpoint(number: u64) -> NewEndpoint<()> {
    let slot = Arc::new(Slot::new(|| ()));
    NewEndpoint { number, address: Arc::new(number), group: 0, slot }
}

/// A set of two endpoints, the first of which has been ejected.
fn set() -> (Arc<Shared<()>>, Instant) {
    let shared = Shared::new(Config::default(), |_| None);
    shared.add(vec![endpoint(1), endpoint(2)], || true);
    let first = Arc::clone(&shared.endpoints()[0].0);
    let now = shared.origin + Duration::from_secs(1);
    shared.eject(&first, now);
    (shared, now + Duration::from_secs(31))
}

/// Runs a part of a call on another thread while the endpoints change.
fn while_they_change(shared: &Arc<Shared<()>>, part: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let members = lock(&shared.members);
    std::thread::spawn(move || {
        part();
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(10)).expect("it waits for the lock");
    drop(members);
}

#[test]
fn one_thread_ends_an_ejection_and_the_others_do_not_wait_for_it() {
    let (shared, back) = set();
    let list = || lock_list(&shared);
    let before = list();
    let choosing = Arc::clone(&shared);
    while_they_change(&shared, move || {
        assert!(choosing.choose(Tried::NONE, Some(back)).is_some());
    });
    assert_eq!(list(), before);
    shared.end_ejections(back);
    let after = list();
    assert_eq!((before.1, after.1), (1, 2));
    shared.end_ejections(back);
    assert_eq!(list(), after, "it is made once");
}

/// Returns the place of the list in memory, and its length.
fn lock_list(shared: &Shared<()>) -> (usize, usize) {
    let list = shared.list.read().unwrap();
    (list.endpoints.as_ptr().addr(), list.endpoints.len())
}

#[test]
fn an_endpoint_is_relieved_while_it_is_out_or_if_there_is_another_group() {
    let (shared, back) = set();
    let relieved =
        || -> Vec<_> { shared.endpoints().iter().map(|(it, _)| shared.relieves(it)).collect() };
    assert_eq!(relieved(), [true, false]);
    shared.end_ejections(back);
    assert_eq!(relieved(), [false, false]);
    shared.add(vec![NewEndpoint { group: 1, ..endpoint(3) }], || true);
    assert_eq!(relieved(), [true, true, true], "the last one gets no calls yet");
    assert!(shared.list.read().unwrap().next.len() == 1);
}

#[test]
fn as_many_are_ejected_as_the_share_says_although_the_product_is_rounded() {
    let config = Config { max_ejected: 0.58, ..Config::default() };
    let shared = Shared::new(config, |_| None);
    shared.add((1..=50).map(endpoint).collect(), || true);
    let endpoints = shared.endpoints();
    endpoints.iter().for_each(|(it, _)| shared.eject(it, shared.origin));
    let statuses = shared.endpoints();
    let ejected = statuses.iter().filter(|(_, it)| *it == EndpointStatus::Ejected).count();
    assert_eq!(ejected, 29);
}

#[test]
fn a_success_takes_no_lock_until_an_ejection_is_forgotten() {
    let (shared, back) = set();
    shared.end_ejections(back);
    let first = Arc::clone(&shared.endpoints()[0].0);
    let ejections = || lock(&shared.members)[0].health.ejections();
    let succeed = move |endpoint: &Endpoint, after: u64| {
        assert!(endpoint.begin());
        let now = endpoint.time(back + Duration::from_secs(after));
        endpoint.settle_known(0, now, Known::Good);
    };
    let endpoint = Arc::clone(&first);
    while_they_change(&shared, move || succeed(&endpoint, 29));
    assert_eq!(ejections(), 1);
    succeed(&first, 30);
    assert_eq!(ejections(), 0);
    let endpoint = Arc::clone(&first);
    while_they_change(&shared, move || succeed(&endpoint, 90));
}
