//! Tests of the fields that the HTTP client adds to the span of an attempt.
//!
//! This is a separate file, because other tests without a subscriber could disable the spans.
#![cfg(feature = "http")]

mod http_support;

use std::sync::{Arc, Mutex};

use buttress::{Stack, telemetry::field};
use http::Request;
use tower::ServiceExt;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, Registry},
};

use self::http_support::*;

/// The recorded resends, each with the name of its span.
#[derive(Clone, Default)]
struct Resends(Arc<Mutex<Vec<(String, u64)>>>);

impl<S> tracing_subscriber::Layer<S> for Resends
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        struct Resend(Option<u64>);
        impl Visit for Resend {
            fn record_u64(&mut self, field: &Field, value: u64) {
                if field.name() == field::RESEND_COUNT {
                    self.0 = Some(value);
                }
            }
            fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
        }
        let mut resend = Resend(None);
        values.record(&mut resend);
        let name = ctx.span(id).unwrap().name().to_owned();
        self.0.lock().unwrap().extend(resend.0.map(|resend| (name, resend)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_span_of_each_attempt_but_the_first_has_the_number_of_the_resend() {
    let resends = Resends::default();
    let _guard = tracing::subscriber::set_default(Registry::default().with(resends.clone()));
    for protocol in BOTH {
        let failure = match protocol {
            Protocol::Http => answer(503, &[]),
            Protocol::Grpc => trailers_only(14, &[]),
        };
        let upstream = Upstream::saying([failure]);
        let stack = Stack::new().retry(retry(2).build().unwrap()).http();
        let client = stack.service::<_, Request<Body>, _>(upstream);
        client.oneshot(protocol.request(&[])).await.unwrap();
        let recorded = std::mem::take(&mut *resends.0.lock().unwrap());
        assert_eq!(recorded, [("attempt".to_owned(), 1), ("attempt".to_owned(), 2)]);
    }
}
