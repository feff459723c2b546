#![no_main]

use buttress::{
    http::idempotency::HeaderKey,
    idempotency::{FindKey, InvalidKey, Key, RequestKey},
};
use buttress_fuzz::lines;
use http::{HeaderName, Request};
use libfuzzer_sys::fuzz_target;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(key) = Key::parse(text) {
            check(&key);
        }
        if let Ok(key) = Key::new(text) {
            assert_eq!(key.as_str(), text);
            check(&key);
        }
    }

    let mut request = Request::post("/").body(()).unwrap();
    *request.headers_mut() = lines(KEY, input);
    let sent: Vec<_> = request.headers().get_all(KEY).iter().collect();
    let found = HeaderKey::new().find_key(&request);
    match sent[..] {
        [] => assert_eq!(found, Ok(RequestKey::Missing)),
        [line] => match line.to_str() {
            Err(_) => assert_eq!(found, Err(InvalidKey::Malformed)),
            Ok(line) => assert_eq!(found, Key::parse(line).map(RequestKey::Key)),
        },
        _ => assert_eq!(found, Err(InvalidKey::Repeated)),
    }
});

/// Checks that a key is in bounds, and that its text parses to the same key, even with parameters.
fn check(key: &Key) {
    let text = key.as_str();
    assert!((1..=255).contains(&text.len()), "{key:?}");
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{key:?}");
    let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(Key::parse(&quoted).as_ref(), Ok(key));
    assert_eq!(Key::parse(&format!(" {quoted} ;v=\"a,b\"")).as_ref(), Ok(key));
    assert_eq!(Key::parse(&format!("{quoted}, {quoted}")), Err(InvalidKey::Repeated));
}
