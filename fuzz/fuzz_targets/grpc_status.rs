#![no_main]

use buttress::{
    BoxError, Classify,
    http::{
        GrpcClassifier,
        wire::{GRPC_MESSAGE, GRPC_STATUS, GrpcCode, grpc_status, is_grpc},
    },
};
use buttress_fuzz::{count, lines};
use http::{Response, header::CONTENT_TYPE};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut headers = lines(GRPC_STATUS, input);
    let status = grpc_status(&headers);
    assert_eq!(status.is_some(), count(&headers, GRPC_STATUS) > 0);
    if let Some(code) = status {
        assert_eq!(GrpcCode::from_number(code.number()), Some(code));
    }

    // The same bytes as the message, by which the classifier recognises tonic's own timer.
    headers.extend(lines(GRPC_MESSAGE, input));
    let mut response = Response::new(String::new());
    *response.headers_mut() = headers;
    let _ = GrpcClassifier::new().classify(Ok::<_, &BoxError>(&response));

    let headers = lines(CONTENT_TYPE, input);
    if is_grpc(&headers) {
        let value = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
        let value = value.unwrap_or_default();
        let value = value.trim_ascii_start();
        assert!(value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-"));
    }
});
