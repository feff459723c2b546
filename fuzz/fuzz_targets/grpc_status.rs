#![no_main]

use buttress::http::wire::{
    Code, GRPC_MESSAGE, GRPC_STATUS, grpc_status, is_grpc, is_tonic_timeout,
};
use buttress_fuzz::{count, lines};
use http::header::CONTENT_TYPE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut headers = lines(GRPC_STATUS, input);
    let status = grpc_status(&headers);
    assert_eq!(status.is_some(), count(&headers, GRPC_STATUS) > 0);
    if let Some(code) = status {
        assert_eq!(Code::from_number(code.number()), Some(code));
    }
    assert!(!is_tonic_timeout(&headers));

    // The same bytes as the message: a line cannot be both a status and these words, but two can.
    headers.extend(lines(GRPC_MESSAGE, input));
    let _ = is_tonic_timeout(&headers);

    let headers = lines(CONTENT_TYPE, input);
    if is_grpc(&headers) {
        let value = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
        let value = value.unwrap_or_default();
        let value = value.trim_ascii_start();
        assert!(value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-"));
    }
});
