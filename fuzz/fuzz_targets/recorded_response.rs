#![no_main]

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use buttress::{
    Error,
    http::idempotency::{IDEMPOTENCY_REPLAYED, RecordHttp},
    idempotency::Record,
    keep::Keep,
};
use buttress_fuzz::{first_number, lines};
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let recorder = RecordHttp::new();
    // As if another program had written to the store.
    replay(&recorder, input.to_vec());

    let number = first_number(input);
    let status = StatusCode::from_u16(100 + (number % 900) as u16).unwrap();
    let (head, body) = input.split_at(input.len() / 2);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = lines(header::LOCATION, head);
    response.headers_mut().extend(lines(header::DATE, head));
    let recorded = recorder.encode(&response);
    let Some(payload) = recorded.payload else {
        assert!(status.is_informational() || input.len() > 8 << 10);
        return;
    };
    assert_eq!(recorded.size, payload.len());
    let (again, body_again) = replay(&recorder, payload.clone()).expect("what was encoded");
    assert_eq!(again.status(), status);
    let kept = |response: &http::HeaderMap| {
        response.get_all(header::LOCATION).iter().cloned().collect::<Vec<_>>()
    };
    assert_eq!(kept(again.headers()), kept(response.headers()));
    assert!(!again.headers().contains_key(header::DATE));
    let bodiless = matches!(status.as_u16(), 204 | 205 | 304);
    assert!(body_again == body || bodiless && body_again.is_empty());

    // Change one byte of the payload.
    let mut garbled = payload;
    let at = number as usize % garbled.len();
    garbled[at] ^= (number >> 32) as u8;
    replay(&recorder, garbled);
});

/// Replays a payload, and returns the response with its whole body, if it can be replayed.
fn replay(recorder: &RecordHttp, payload: Vec<u8>) -> Option<(Response<()>, Vec<u8>)> {
    let most = payload.len();
    let mut replayed = Keep::<Response<String>>::replay(recorder, payload).ok()?;
    Record::<Request<()>, _, Error<Infallible>>::mark_replayed(recorder, &mut replayed);
    let (head, body) = replayed.into_parts();
    assert_eq!(head.headers[IDEMPOTENCY_REPLAYED], "true");
    let (mut body, mut whole) = (pin!(body), Vec::new());
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        if let Ok(data) = frame.expect("it is all there").into_data() {
            whole.extend_from_slice(&data);
        }
    }
    assert!(body.is_end_stream() && whole.len() <= most);
    Some((Response::from_parts(head, ()), whole))
}
