//! Faults begin and end with a window of the arming.

use std::{task::Poll, time::Duration};

use tokio::time::advance;
use tower::Layer;

use super::{HOUR, SECOND, builder, call, client, failed, reset, spawn};

const NS: Duration = Duration::from_nanos(1);

#[tokio::test(start_paused = true)]
async fn a_window_has_its_start_and_not_its_end() {
    let windows = [2 * SECOND..4 * SECOND, 4 * SECOND + NS..5 * SECOND, 9 * SECOND..HOUR];
    let chaos = builder().errors_fn(1.0, reset).windows(windows).build().unwrap();
    let mut service = chaos.layer(client().0);
    // A second arming begins anew.
    for _ in 0..2 {
        chaos.handle().arm_for(HOUR).unwrap();
        let steps = [
            (Duration::ZERO, false),
            (2 * SECOND - NS, false),
            (NS, true),
            (2 * SECOND - NS, true),
            (NS, false),
            (NS, true),
            (SECOND - 2 * NS, true),
            (NS, false),
            (4 * SECOND, true),
            (HOUR - 9 * SECOND - NS, true),
            (NS, false),
        ];
        for (number, (step, fails)) in steps.into_iter().enumerate() {
            advance(step).await;
            assert_eq!(call(&mut service).await.is_err(), fails, "step {number}");
        }
        assert!(!chaos.handle().is_armed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_continues_at_the_end_of_its_window() {
    let window = || [SECOND..3 * SECOND];
    for chaos in [
        builder().hangs(1.0).windows(window()).build().unwrap(),
        builder().lost_responses(1.0).windows(window()).build().unwrap(),
        builder().delays(1.0, HOUR).windows(window()).build().unwrap(),
        builder().late_responses(1.0, HOUR).windows(window()).build().unwrap(),
    ] {
        chaos.handle().arm_for(HOUR).unwrap();
        advance(2 * SECOND).await;
        let mut held = spawn(chaos.layer(client().0));
        assert!(held.poll().is_pending());
        advance(SECOND - NS).await;
        assert!(held.poll().is_pending());
        advance(NS).await;
        assert!(matches!(held.poll(), Poll::Ready(Ok(1))));
        assert!(chaos.handle().is_armed());
        assert_eq!(chaos.handle().hung(), 0);
        assert!(matches!(spawn(chaos.layer(client().0)).poll(), Poll::Ready(Ok(1))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_arming_ends_before_a_longer_window() {
    let chaos = builder().hangs(1.0).windows([Duration::ZERO..HOUR]).build().unwrap();
    chaos.handle().arm_for(SECOND).unwrap();
    let mut held = spawn(chaos.layer(client().0));
    assert!(held.poll().is_pending());
    advance(SECOND).await;
    assert!(matches!(held.poll(), Poll::Ready(Ok(1))));
    assert!(!chaos.handle().is_armed());
}

#[tokio::test(start_paused = true)]
async fn calls_outside_of_the_windows_do_not_change_the_faults_within_them() {
    let builder = || builder().errors_fn(0.5, reset);
    let all = failed(&mut armed!(builder()).layer(client().0)).await;
    for before in [0, 1, 10] {
        let mut service = armed!(builder().windows([SECOND..2 * SECOND])).layer(client().0);
        for _ in 0..before {
            assert!(call(&mut service).await.is_ok());
        }
        advance(SECOND).await;
        assert_eq!(failed(&mut service).await, all, "{before}");
    }
}
