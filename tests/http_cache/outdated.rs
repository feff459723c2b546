//! Older responses that a later response has replaced, even if the later one is not kept.

use super::*;

/// Returns a server that responds with 200, and later with these responses in turn.
fn then(
    builder: Builder,
    later: &'static [(u16, &'static [(&'static str, &'static str)])],
) -> Server {
    Server::new(builder.ttl(10 * SECOND), Duration::ZERO, move |call, _| match call {
        1 => respond(200, &[("etag", "first")]),
        call => {
            let (status, headers) = later[(call as usize - 2).min(later.len() - 1)];
            respond(status, headers)
        }
    })
}

/// Later responses that are not kept, and are no outage.
const NOT_KEPT: [(u16, &[(&str, &str)]); 5] = [
    (404, &[]),
    (410, &[]),
    (302, &[("location", "/other")]),
    (200, &[("cache-control", "no-cache")]),
    (200, &[("cache-control", "no-store")]),
];

#[tokio::test(start_paused = true)]
async fn a_response_that_was_removed_is_not_given_while_it_is_renewed() {
    for later in &NOT_KEPT {
        let builder = CacheLayer::http().while_revalidate(600 * SECOND);
        let server = then(builder, std::slice::from_ref(later));
        drop(server.get(&[]).await);
        advance(30 * SECOND).await;
        // The renewal learns that the older response is no longer right.
        assert_eq!(value(&server.get(&[]).await, "etag"), "first");
        sleep(SECOND).await;
        for _ in 0..2 {
            let response = server.get(&[]).await;
            assert_eq!((response.status().as_u16(), value(&response, "etag")), (later.0, ""));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_was_removed_is_not_given_if_the_service_fails_later() {
    for [later, down] in NOT_KEPT.map(|later| [later, (503, &[][..])]) {
        let both: &'static [_; 2] = Box::leak(Box::new([later, down]));
        let server = then(CacheLayer::http().if_error(3_600 * SECOND), both);
        drop(server.get(&[]).await);
        advance(30 * SECOND).await;
        assert_eq!(server.get(&[]).await.status().as_u16(), later.0);
        assert_eq!(server.get(&[]).await.status(), 503, "{later:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_until_a_response_has_arrived_counts_as_its_age() {
    let server = Server::new(CacheLayer::http().ttl(60 * SECOND), 2 * SECOND, |_, _| {
        let body = Script::new(&[(SECOND, "EUR "), (Duration::ZERO, "1.08")], Some(8));
        respond(200, &[("cache-control", "max-age=6")]).map(|_| body)
    });
    assert_eq!(text(server.get(&[]).await).await, "EUR 1.08");
    // 2 s for the head and 1 s for the body.
    let hit = server.get(&[]).await;
    assert_eq!((value(&hit, "age"), server.calls()), ("3", 1));
    advance(3 * SECOND).await;
    assert_eq!(text(server.get(&[]).await).await, "EUR 1.08");
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_first_of_several_ages_counts() {
    let server = Server::new(CacheLayer::http().ttl(60 * SECOND), Duration::ZERO, |_, _| {
        respond(200, &[("cache-control", "max-age=60"), ("age", "3600, 0")])
    });
    drop((server.get(&[]).await, server.get(&[]).await));
    assert_eq!(server.calls(), 2);
}
