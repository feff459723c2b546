//! Tests of responses that are created from bytes.

use ::http::StatusCode;
use std::{
    pin::pin,
    task::{Context, Waker},
};

use allocation_counter::measure;
use buttress::http::{self, ResponseBody, UntilEnd};

use super::*;

fn bytes() -> Response<ResponseBody<Scripted>> {
    http::response(StatusCode::OK, "from memory")
}

#[test]
fn a_response_of_bytes_allocates_nothing() {
    let info = measure(|| {
        let mut body = pin!(bytes().into_body());
        let polled = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = polled else { panic!("the data is there") };
        assert_eq!(frame.into_data().unwrap(), "from memory");
        assert!(body.is_end_stream());
    });
    assert_eq!(info.count_total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_of_bytes_ends_its_call_before_it_is_read() {
    let slots = BulkheadLayer::builder().max_concurrent(1).build().unwrap();
    let handle = slots.handle();
    let service = service_fn(|_: Ask| ready(Ok::<_, Rejected>(bytes())));
    let service = UntilEnd::new(slots).layer(service);
    let response = service.oneshot(Ask::default()).await.unwrap();
    assert_eq!(handle.in_flight(), 0);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "from memory");
}
