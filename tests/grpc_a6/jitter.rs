//! Tests of the jitter of the pauses.

use std::time::Duration;

use buttress::{
    http::wire::GrpcCode::Unavailable,
    retry::{Backoff, Jitter},
};

use super::{
    INITIAL,
    call::{Answer::Status, Row, Scripted, retry, send},
    ms,
};

/// The resolution of timers, which fire at the next whole millisecond.
const TICK: Duration = ms(1);

/// Returns the pauses before the second and the third attempt of many calls.
async fn pauses(jitter: Jitter, pushback: &'static [&'static str]) -> Vec<(Duration, Duration)> {
    let backoff = Backoff::exponential(INITIAL).jitter(jitter).build().unwrap();
    let mut pauses = Vec::new();
    for _ in 0..200 {
        let scripted = Scripted::new(&[Status(Unavailable, pushback), Status(Unavailable, &[])]);
        send(&Row::SENT_ONCE, &scripted, retry(&Row::SENT_ONCE).backoff(backoff)).await.unwrap();
        let sent = scripted.seen();
        assert_eq!(sent.len(), 3);
        pauses.push((sent[1].at - sent[0].at, sent[2].at - sent[1].at));
    }
    pauses
}

#[tokio::test(start_paused = true)]
async fn jitter_makes_pushback_longer_and_never_shorter() {
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        // The spread is a fifth of the requested time, or the initial backoff if that is more.
        for (line, asked, spread) in [(&["250"], ms(250), INITIAL), (&["1000"], ms(1_000), ms(200))]
        {
            let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
            for (pause, _) in pauses(jitter, line).await {
                least = least.min(pause);
                most = most.max(pause);
            }
            assert!(
                asked <= least && most < asked + spread + TICK,
                "{jitter:?}: {least:?} {most:?}"
            );
            // The 200 values do not all fall into one half.
            assert!(least < asked + spread / 2, "{jitter:?}: {least:?}");
            assert!(most > asked + spread / 2, "{jitter:?}: {most:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_does_not_put_off_what_is_asked_for_at_once() {
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        assert!(
            pauses(jitter, &["0"]).await.iter().all(|(pause, _)| pause.is_zero()),
            "{jitter:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn after_pushback_the_backoff_begins_anew_with_any_jitter() {
    // The first pause of a decorrelated backoff is up to three times its base.
    let longest =
        [(Jitter::Full, INITIAL), (Jitter::Equal, INITIAL), (Jitter::Decorrelated, 3 * INITIAL)];
    for (jitter, longest) in longest {
        for pushback in [&["0"], &["1000"]] {
            let next = pauses(jitter, pushback).await.into_iter().map(|(_, next)| next).max();
            assert!(next < Some(longest + TICK), "{jitter:?} after {pushback:?}: {next:?}");
        }
    }
}
