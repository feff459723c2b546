//! The hosts and the credentials of a URI, in keys and in what a change forgets.

use super::*;

/// Returns a server that responds with the number of the call.
fn counting() -> Server {
    Server::new(CacheLayer::http(), Duration::ZERO, |call, _| {
        let text: &'static str = Box::leak(call.to_string().into());
        respond(200, &[]).map(|_| Script::new(&[(Duration::ZERO, text)], Some(text.len() as u64)))
    })
}

/// Returns the text of the response to a request for a URI, with the header `host` if it is given.
async fn ask(server: &Server, method: Method, uri: &str, host: Option<&str>) -> Bytes {
    let mut request = Request::builder().method(method).uri(uri);
    if let Some(host) = host {
        request = request.header(header::HOST, host);
    }
    let request = request.body(String::new()).unwrap();
    text(server.client.clone().oneshot(request).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_host_that_the_uri_does_not_name_tells_responses_apart() {
    // A client over HTTP/1 sends the header `host` of the caller instead of that of the URI.
    let server = counting();
    let uri = "http://10.0.0.1/rates";
    for (host, call) in [(None, "1"), (Some("a"), "2"), (Some("b"), "3"), (Some("a"), "2")] {
        assert_eq!(ask(&server, Method::GET, uri, host).await, call, "{host:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_forgets_the_same_uri_however_its_host_is_named() {
    let spellings = [
        ("http://shop.internal/rates", None),
        ("http://SHOP.internal:80/rates", None),
        ("https://shop.internal:443/rates", None),
        ("http://ann@shop.internal/rates", None),
        ("http://10.0.0.1/rates", Some("shop.internal")),
        // As a server receives it over HTTP/1.
        ("/rates", Some("shop.internal")),
        ("/rates", Some("Shop.Internal:80")),
    ];
    for (asked, asked_host) in spellings {
        if asked.contains('@') {
            continue;
        }
        for (changed, changed_host) in spellings {
            let server = counting();
            assert_eq!(ask(&server, Method::GET, asked, asked_host).await, "1");
            assert_eq!(ask(&server, Method::POST, changed, changed_host).await, "2");
            let third = ask(&server, Method::GET, asked, asked_host).await;
            assert_eq!(third, "3", "{asked} {asked_host:?} {changed} {changed_host:?}");
        }
        let server = counting();
        assert_eq!(ask(&server, Method::GET, asked, asked_host).await, "1");
        server.cache.forget_uri(&Uri::from_static("http://shop.internal/rates"));
        assert_eq!(ask(&server, Method::GET, asked, asked_host).await, "2", "{asked}");
        // A change of another host, port or path forgets nothing.
        for (other, host) in [
            ("http://shop.internal:8080/rates", None),
            ("http://shop.internal/rate", None),
            ("http://shop.internal/rates?a=1", None),
            ("http://shop.internal/rates", Some("other.internal")),
            ("/rates", None),
        ] {
            drop(ask(&server, Method::POST, other, host).await);
        }
        assert_eq!(ask(&server, Method::GET, asked, asked_host).await, "2", "{asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_in_a_uri_are_credentials() {
    let server = counting();
    for (uri, call) in [
        ("http://ann:Secret@shop.internal/", "1"),
        ("http://ann:secret@shop.internal/", "2"),
        ("http://ann:secret@shop.internal/", "3"),
    ] {
        assert_eq!(ask(&server, Method::GET, uri, None).await, call);
    }
}

/// RFC 9211, section 2.2.
#[tokio::test(start_paused = true)]
async fn a_change_is_forwarded_because_of_its_method() {
    let server = counting();
    for (method, why) in [(Method::POST, "method"), (Method::OPTIONS, "bypass")] {
        let response = server.send(method, &[]).await;
        assert_eq!(value(&response, "cache-status"), format!("buttress; fwd={why}"));
    }
}
