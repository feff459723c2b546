//! Tests of the builders for HTTP.
//!
//! Each invalid setting is an error that names its setter. The nearest valid setting is accepted.
#![cfg(feature = "http")]

use std::{fmt::Debug, time::Duration};

use ::http::{HeaderName, Response, StatusCode, header::ACCEPT_CHARSET};
use buttress::{
    ConfigError, Stack,
    cache::CacheLayer,
    fallback::FallbackLayer,
    http::{
        self, HttpCheck, HttpClientLayer, HttpServerBuilder, HttpServerLayer, ReplayBodyLayer,
        SetIdempotencyKeyLayer,
        chaos::BodyChaosLayer,
        idempotency::{HeaderKey, ReadHttp, RecordHttp},
    },
    idempotency::{IdempotencyLayer, Key, store::MemoryStore},
};
use tower::layer::util::Identity;

const TICK: Duration = Duration::from_nanos(1);

/// Checks that an error names the setter and its value.
#[track_caller]
fn rejects<T: Debug>(built: Result<T, ConfigError>, knob: &str, value: &str) {
    let error = built.expect_err(knob);
    assert_eq!((error.knob(), error.value()), (knob, value), "{error}");
}

#[track_caller]
fn accepts<T>(built: Result<T, ConfigError>) {
    if let Err(error) = built {
        panic!("{error}");
    }
}

fn server() -> HttpServerBuilder<Identity> {
    HttpServerLayer::builder_around(Identity::new())
}

#[test]
fn a_server_rejects_times_of_zero_and_a_status_of_success() {
    rejects(server().limit(Duration::ZERO).build(), "limit", "0ns");
    rejects(server().body_idle(Duration::ZERO).build(), "body_idle", "0ns");
    rejects(server().body_unread(Duration::ZERO).build(), "body_unread", "0ns");
    for status in [100, 200, 302, 399, 600, 999] {
        let full = StatusCode::from_u16(status).unwrap();
        rejects(server().full_status(full).build(), "full_status", &status.to_string());
    }
    rejects(HttpServerLayer::builder(Stack::new()).limit(Duration::ZERO).build(), "limit", "0ns");

    accepts(server().build());
    accepts(server().without_drain().build());
    accepts(server().name("api").build());
    accepts(HttpServerLayer::builder(Stack::new()).build());
    for time in [TICK, Duration::MAX] {
        accepts(server().limit(time).build());
        accepts(server().body_idle(time).build());
        accepts(server().body_unread(time).build());
    }
    for status in [400, 429, 503, 599] {
        accepts(server().full_status(StatusCode::from_u16(status).unwrap()).build());
    }
}

#[test]
fn an_invalid_setting_of_a_server_survives_a_layer_outside() {
    let builder = server().limit(Duration::ZERO).outside(Identity::new());
    rejects(builder.build(), "limit", "0ns");
}

#[test]
fn a_client_rejects_a_time_of_zero_and_contradictions() {
    rejects(HttpClientLayer::builder().body_idle(Duration::ZERO).build(), "body_idle", "0ns");
    let idle = HttpClientLayer::builder().body_idle(TICK);
    rejects(idle.clone().without_body_idle().build(), "body_idle", "1ns");
    rejects(
        HttpClientLayer::builder().without_body_idle().body_idle(TICK).build(),
        "body_idle",
        "1ns",
    );
    let envoy = HttpClientLayer::builder().for_envoy();
    rejects(envoy.clone().without_hop_headers().build(), "for_envoy", "set");
    rejects(
        HttpClientLayer::builder().without_hop_headers().for_envoy().build(),
        "for_envoy",
        "set",
    );

    rejects(HttpClientLayer::builder().body_buffer(0).build(), "body_buffer", "0");
    let select = HttpClientLayer::builder().body_buffer_for_fn(|_| true);
    rejects(select.clone().build(), "body_buffer_for_fn", "set");
    let buffer = select.body_buffer(1);
    let twice = buffer.clone().body_buffer_for_fn(|_| true);
    rejects(twice.build(), "body_buffer_for_fn", "set twice");
    let on_send = HttpClientLayer::builder().on_send_fn(|_| ());
    rejects(on_send.clone().on_send_fn(|_| ()).build(), "on_send_fn", "set twice");

    accepts(HttpClientLayer::builder().build());
    accepts(buffer.build());
    for bytes in [1, usize::MAX] {
        accepts(HttpClientLayer::builder().body_buffer(bytes).build());
    }
    accepts(idle.build());
    accepts(HttpClientLayer::builder().body_idle(Duration::MAX).build());
    accepts(HttpClientLayer::builder().without_body_idle().without_hop_headers().build());
    accepts(envoy.build());
}

/// Header names that cannot carry a key.
const TAKEN: [&str; 6] =
    ["authorization", "content-type", "cookie", "host", "connection", "transfer-encoding"];

#[test]
fn a_finder_of_keys_rejects_a_header_of_another_meaning_and_a_second_function() {
    for name in TAKEN {
        let builder = HeaderKey::builder().header(HeaderName::from_static(name));
        rejects(builder.build(), "header", &format!("{name:?}"));
    }
    let only = HeaderKey::builder().only_fn(|_| true);
    rejects(only.clone().only_fn(|_| true).build(), "only_fn", "set twice");
    let route = HeaderKey::builder().route_fn(|_| String::new());
    rejects(route.clone().route_fn(|_| String::new()).build(), "route_fn", "set twice");

    accepts(HeaderKey::builder().build());
    for name in ["idempotency-key", "x-request-id"] {
        accepts(HeaderKey::builder().header(HeaderName::from_static(name)).build());
    }
    accepts(only.build());
    accepts(route.optional().build());
}

#[test]
fn a_layer_rejects_a_second_function() {
    let builder = IdempotencyLayer::http(MemoryStore::new()).single_tenant();
    let route = builder.clone().route_fn(|_| String::new());
    rejects(route.clone().route_fn(|_| String::new()).build(), "route_fn", "set twice");
    let keys = HeaderKey::builder().route_fn(|_| String::new()).build().unwrap();
    let (read, record) = (ReadHttp::new(), RecordHttp::new());
    let both = IdempotencyLayer::builder(MemoryStore::<Vec<u8>>::new(), keys, read, record)
        .single_tenant();
    rejects(both.route_fn(|_| String::new()).build(), "route_fn", "set twice");

    let started = builder.clone().not_started(|_, _| false);
    rejects(started.clone().not_started(|_, _| false).build(), "not_started", "set twice");

    accepts(builder.build());
    accepts(route.build());
    accepts(started.route_fn(|_| String::new()).build());
}

#[test]
fn a_reader_of_requests_rejects_limits_of_zero_and_limits_of_what_it_does_not_read() {
    rejects(ReadHttp::builder().max_body_bytes(0).build(), "max_body_bytes", "0");
    rejects(ReadHttp::builder().body_timeout(Duration::ZERO).build(), "body_timeout", "0ns");
    rejects(ReadHttp::builder().max_total_bytes(0).build(), "max_total_bytes", "0");
    rejects(
        ReadHttp::builder().max_total_bytes((1 << 20) - 1).build(),
        "max_total_bytes",
        "1048575",
    );
    let unread = ReadHttp::builder().without_body();
    rejects(unread.clone().max_body_bytes(1).build(), "max_body_bytes", "1");
    rejects(unread.clone().max_total_bytes(1).build(), "max_total_bytes", "1");
    rejects(unread.clone().body_timeout(TICK).build(), "body_timeout", "1ns");

    let parts = ReadHttp::builder().fingerprint_fn(|_, _, _| ());
    rejects(parts.clone().fingerprint_fn(|_, _, _| ()).build(), "fingerprint_fn", "set twice");

    accepts(parts.without_body().build());
    accepts(ReadHttp::builder().build());
    for bytes in [1, usize::MAX] {
        accepts(ReadHttp::builder().max_body_bytes(bytes).build());
    }
    for bytes in [1 << 20, usize::MAX] {
        accepts(ReadHttp::builder().max_total_bytes(bytes).build());
    }
    accepts(ReadHttp::builder().max_body_bytes(1).max_total_bytes(1).build());
    for time in [TICK, Duration::MAX] {
        accepts(ReadHttp::builder().body_timeout(time).build());
    }
    accepts(unread.build());
}

#[test]
fn a_recorder_rejects_a_cap_of_zero_a_header_that_is_never_kept_and_a_second_seal() {
    rejects(RecordHttp::builder().max_body_bytes(0).build(), "max_body_bytes", "0");
    for name in ["set-cookie", "authorization", "date", "content-length"] {
        let builder = RecordHttp::builder().keep_header(HeaderName::from_static(name));
        rejects(builder.build(), "keep_header", &format!("{name:?}"));
    }
    let sealed = RecordHttp::builder().seal_fn(|payload| payload, Some);
    rejects(sealed.clone().seal_fn(|payload| payload, Some).build(), "seal_fn", "set twice");
    let started = RecordHttp::builder().not_started(|_, _| false);
    rejects(started.clone().not_started(|_, _| false).build(), "not_started", "set twice");

    accepts(started.build());
    accepts(RecordHttp::builder().build());
    for bytes in [1, usize::MAX] {
        accepts(RecordHttp::builder().max_body_bytes(bytes).build());
    }
    let headers = ["x-mine", "x-yours", "content-type"].map(HeaderName::from_static);
    accepts(headers.into_iter().fold(sealed, |builder, name| builder.keep_header(name)).build());
}

#[test]
fn kept_bodies_reject_limits_of_zero_and_less_room_for_all_than_for_one() {
    let builder = ReplayBodyLayer::builder;
    rejects(builder().max_request_bytes(0).build(), "max_request_bytes", "0");
    rejects(builder().max_total_bytes(0).build(), "max_total_bytes", "0");
    rejects(builder().max_total_bytes((64 << 10) - 1).build(), "max_total_bytes", "65535");
    let one_more = builder().max_request_bytes((16 << 20) + 1);
    // The default total limit is as large as the limit of one body.
    accepts(one_more.clone().build());

    accepts(builder().build());
    accepts(builder().name("orders").build());
    accepts(builder().max_total_bytes(64 << 10).build());
    accepts(builder().max_request_bytes(1).max_total_bytes(1).build());
    accepts(one_more.max_total_bytes(usize::MAX).build());
}

#[test]
fn a_client_of_keys_rejects_a_header_of_another_meaning_and_a_second_function() {
    for name in TAKEN {
        let builder = SetIdempotencyKeyLayer::builder().header(HeaderName::from_static(name));
        rejects(builder.build(), "header", &format!("{name:?}"));
    }
    let chosen = SetIdempotencyKeyLayer::builder().for_requests_fn(|_| true);
    rejects(chosen.clone().for_requests_fn(|_| true).build(), "for_requests_fn", "set twice");
    let generate = SetIdempotencyKeyLayer::builder().generate_fn(|_| Key::new("a").unwrap());
    let twice = generate.clone().generate_fn(|_| Key::new("b").unwrap());
    rejects(twice.build(), "generate_fn", "set twice");

    accepts(SetIdempotencyKeyLayer::builder().build());
    for name in ["idempotency-key", "x-request-id"] {
        accepts(SetIdempotencyKeyLayer::builder().header(HeaderName::from_static(name)).build());
    }
    accepts(chosen.bare().build());
    accepts(generate.trust_header().build());
}

#[test]
fn chaos_of_bodies_rejects_ratios_that_are_none_and_a_pause_of_zero() {
    let builder = BodyChaosLayer::builder;
    rejects(builder().cuts(-0.1).build(), "cuts", "-0.1");
    rejects(builder().stalls(1.1).build(), "stalls", "1.1");
    rejects(builder().trickles(f64::NAN, TICK).build(), "trickles", "NaN");
    rejects(builder().trickles(0.5, Duration::ZERO).build(), "trickles", "0ns");
    rejects(builder().stalls(0.5).cuts(0.6).build(), "cuts", "0.6");
    accepts(builder().name("orders").seed(1).build());
    accepts(builder().stalls(0.5).cuts(0.25).trickles(0.25, TICK).build());
}

#[test]
fn a_cache_keeps_only_failures_that_say_something_of_the_request() {
    let builder = CacheLayer::http;
    for status in [200_u16, 302, 399, 429, 500, 503] {
        let negative = [StatusCode::NOT_FOUND, StatusCode::from_u16(status).unwrap()];
        let value = status.to_string();
        rejects(builder().negative(negative, TICK).build(), "negative", &value);
    }
    for ttl in [Duration::ZERO, TICK, Duration::MAX] {
        accepts(builder().negative([StatusCode::NOT_FOUND, StatusCode::GONE], ttl).build());
    }
    accepts(builder().vary([ACCEPT_CHARSET]).scope_fn(|_, _| None).build());
    // The settings that have nothing to do with HTTP are checked too.
    rejects(builder().max_entry_bytes(0).build(), "max_entry_bytes", "0");
}

#[test]
fn a_fallback_with_a_response_is_checked_like_any_other() {
    let builder = || FallbackLayer::builder(http::fallback(Response::new("[]")));
    rejects(builder().limit(Duration::ZERO).build(), "limit", "0ns");
    rejects(builder().reserve(1.0).build(), "reserve", "1.0");
    accepts(builder().limit(TICK).reserve(0.5).also_permanent().build());
}

#[test]
fn a_check_needs_a_uri_with_a_host() {
    rejects(HttpCheck::<String>::get("http://a b/"), "get", "\"http://a b/\"");
    rejects(HttpCheck::<String>::get("/health"), "get", "\"/health\"");
    accepts(HttpCheck::<String>::get("http://shop/health"));
}
