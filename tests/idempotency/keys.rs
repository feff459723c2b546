//! Tests of the guarded requests, and of which requests are the same.

use buttress::error::IdempotencyReason as Reason;

use super::support::*;

#[tokio::test(start_paused = true)]
async fn what_has_no_key_or_a_bad_one_leaves_no_trace() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    let long = "k".repeat(256);
    for (key, reason) in [
        (None, Reason::KeyMissing),
        (Some(""), Reason::KeyMalformed),
        (Some(long.as_str()), Reason::KeyMalformed),
        (Some("a, b"), Reason::KeyMalformed),
        (Some("\"a"), Reason::KeyMalformed),
    ] {
        let ask = Ask { key: key.map(str::to_owned), ..ask("") };
        let answer = call(&guard, &worker, ask).await;
        assert_eq!(rejected(&answer), Some(reason), "{key:?}");
        assert_eq!(retry_after(&answer), None, "{key:?}");
    }
    let answer = call(&guard, &worker, Ask { body: "too large", ..ask("k") }).await;
    assert_eq!(rejected(&answer), Some(Reason::BodyTooLarge));
    assert_eq!((worker.runs(), store.taken(Step::Claim)), (0, 0));
    assert!(store.memory().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_key_goes_through_each_time() {
    let (guard, store) = guard();
    let worker = Worker::quick();
    for run in 1..=3 {
        assert_eq!(call(&guard, &worker, ask("unguarded")).await, Ok(run));
    }
    assert_eq!(store.taken(Step::Claim), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_in_quotes_is_the_key_without() {
    let (guard, _) = guard();
    let worker = Worker::quick();
    for key in ["k", "\"k\"", " \"k\"; v=1"] {
        assert_eq!(call(&guard, &worker, ask(key)).await, Ok(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_another_request_is_rejected_for_good() {
    let (guard, _) = guard();
    let worker = Worker::quick();
    assert_eq!(call(&guard, &worker, ask("k")).await, Ok(1));
    let answer = call(&guard, &worker, Ask { body: "43", ..ask("k") }).await;
    assert_eq!(rejected(&answer), Some(Reason::Mismatch));
    assert_eq!(retry_after(&answer), None);
    assert_eq!((worker.runs(), guard.handle().counts().mismatches), (1, 1));
    assert_eq!(guard.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn tenants_and_routes_have_keys_of_their_own() {
    let store = Scripted::new();
    let guard = scoped(&store).build().unwrap();
    let worker = Worker::quick();
    for (run, tenant, route) in [(1, "a", "/"), (2, "b", "/"), (3, "a", "/other"), (4, "", "a/")] {
        let ask = Ask { tenant, route, ..ask("k") };
        assert_eq!(call(&guard, &worker, ask.clone()).await, Ok(run));
        assert_eq!(call(&guard, &worker, ask).await, Ok(run));
    }
    // A different body with the key of one tenant does not affect the other tenant.
    let answer = call(&guard, &worker, Ask { tenant: "c", body: "43", ..ask("k") }).await;
    assert_eq!(answer, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn requests_that_were_recorded_before_a_secret_changed_are_still_known() {
    let store = Scripted::new();
    let plain = over(&store).build().unwrap();
    let first = over(&store).fingerprint_secret("1").build().unwrap();
    let second = over(&store).fingerprint_secret("1").fingerprint_secret("2").build().unwrap();
    let other = over(&store).fingerprint_secret("3").build().unwrap();
    let worker = Worker::quick();
    assert_eq!(call(&plain, &worker, ask("plain")).await, Ok(1));
    assert_eq!(call(&first, &worker, ask("first")).await, Ok(2));
    assert_eq!(call(&second, &worker, ask("second")).await, Ok(3));

    assert_eq!(call(&first, &worker, ask("plain")).await, Ok(1));
    for (key, run) in [("plain", 1), ("first", 2), ("second", 3)] {
        assert_eq!(call(&second, &worker, ask(key)).await, Ok(run), "{key}");
        let another = call(&second, &worker, Ask { body: "43", ..ask(key) }).await;
        assert_eq!(rejected(&another), Some(Reason::Mismatch), "{key}");
    }
    // The layer does not have the secret. It cannot recognise the request again.
    for key in ["first", "second"] {
        assert_eq!(rejected(&call(&other, &worker, ask(key)).await), Some(Reason::Mismatch));
    }
    assert_eq!(worker.runs(), 3);
    assert_eq!(second.handle().counts().mismatches, 3, "the older fingerprint is no mismatch");
}

#[test]
fn a_secret_is_not_empty_and_is_not_shown() {
    let store = Scripted::new();
    let empty = over(&store).fingerprint_secret("").build().unwrap_err();
    assert_eq!(empty.knob(), "fingerprint_secret");
    let builder = over(&store).fingerprint_secret([201, 202, 203]);
    let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
    assert!(shown.contains("Secrets(1)") && !shown.contains("202"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn the_same_request_is_never_a_mismatch_while_a_secret_is_rolled_out() {
    let store = Scripted::new();
    let waiting = |builder: Builder| builder.wait_for_duplicates(60 * SECOND).build().unwrap();
    let plain = waiting(over(&store));
    let keyed = waiting(over(&store).fingerprint_secret("1"));
    // The operation is released after 2 s. A process that has the secret then runs it again.
    let rejecting = Worker::new(|_, _| async {
        tokio::time::sleep(2 * SECOND).await;
        Err(Failure::rejected(buttress::error::CircuitOpen::new("c", None)))
    });
    let worker = Worker::taking(5 * SECOND);
    let lost = spawn(&plain, &rejecting, ask("k"));
    settle().await;
    let waiter = spawn(&keyed, &worker, ask("k"));
    tokio::time::sleep(2 * SECOND).await;
    lost.await.unwrap().unwrap_err();
    let runner = spawn(&over(&store).fingerprint_secret("1").build().unwrap(), &worker, ask("k"));
    assert_eq!(runner.await.unwrap(), Ok(1));
    assert_eq!(waiter.await.unwrap(), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_calls_a_request_unlike_itself_is_asked_a_bounded_number_of_times() {
    let store = Scripted::new();
    let guard = over(&store).fingerprint_secret("1").fingerprint_secret("2").build().unwrap();
    store.always(Step::Claim, Fault::Echo);
    let answer = call(&guard, &Worker::quick(), ask("k")).await;
    assert_eq!(rejected(&answer), Some(Reason::Mismatch));
    assert!(store.taken(Step::Claim) <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_nobody_is_rejected_before_anything_is_looked_up() {
    let store = Scripted::new();
    let guard = scoped(&store).build().unwrap();
    let worker = Worker::quick();
    let nobodys = Ask { tenant: "nobody", ..ask("k") };
    let answer = call(&guard, &worker, nobodys).await;
    assert_eq!((rejected(&answer), retry_after(&answer)), (Some(Reason::ScopeMissing), None));
    assert_eq!((worker.runs(), guard.handle().counts().store_steps), (0, 0));
}
