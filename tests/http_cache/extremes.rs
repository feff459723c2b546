//! The largest entries, a scope that panics, and the headers of a proxy.

use super::*;

const MIB: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn an_entry_of_almost_one_mib_is_kept_and_one_that_is_larger_is_not() {
    for (bytes, calls) in [(MIB - 1024, 1), (MIB, 2)] {
        let frame: &'static str = Box::leak("x".repeat(bytes / 16).into());
        let builder = CacheLayer::http().max_bytes(32 * MIB).max_entry_bytes(MIB);
        let server = Server::new(builder, SECOND, move |_, _| {
            let frames = [(Duration::ZERO, frame); 16];
            respond(200, &[]).map(|_| Script::new(&frames, Some(bytes as u64)))
        });
        assert_eq!(text(server.get(&[]).await).await.len(), bytes);
        let again = server.get(&[]).await;
        let is_hit = value(&again, "cache-status").starts_with("buttress; hit");
        assert_eq!(text(again).await.len(), bytes);
        let counts = server.cache.counts();
        assert_eq!((is_hit, server.calls()), (calls == 1, calls));
        assert_eq!(counts.bytes >= bytes as u64, calls == 1, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_panics_harms_only_its_caller() {
    let builder = CacheLayer::http().scope_fn(|headers, _| {
        assert!(!headers.contains_key("x-bad"), "the scope panics");
        None
    });
    let server = Server::new(builder, SECOND, |_, _| respond(200, &[]));
    let call = |headers| tokio::spawn(server.client.clone().oneshot(request(Method::GET, headers)));
    let first = call(&[]);
    sleep(SECOND / 2).await;
    let (bad, second) = (call(&[("x-bad", "1")]), call(&[]));
    assert!(bad.await.err().unwrap().is_panic());
    for good in [first, second] {
        assert_eq!(text(good.await.unwrap().unwrap()).await, "EUR 1.08");
    }
    let counts = server.cache.counts();
    assert_eq!((counts.misses, counts.collapsed, counts.shared_calls), (1, 1, 0));
    assert_eq!(server.calls(), 1);
}

/// RFC 9111, section 3.1.
#[tokio::test(start_paused = true)]
async fn the_headers_of_a_proxy_are_not_kept() {
    let names = ["proxy-authenticate", "proxy-authentication-info", "proxy-authorization"];
    let headers = names.map(|name| (name, "a"));
    let server = Server::new(CacheLayer::http(), SECOND, move |_, _| respond(200, &headers));
    drop(server.get(&[]).await);
    let hit = server.get(&[]).await;
    assert_eq!((names.map(|name| value(&hit, name)), server.calls()), ([""; 3], 1));
}
