//! The names of the fields of spans and events.

/// The name of the stack.
pub const STACK: &str = "buttress.stack";
/// The name of the layer. By default it is the name of the stack.
pub const LAYER: &str = "buttress.layer";
/// The kind of the layer, such as `attempt_timeout`.
pub const KIND: &str = "buttress.kind";
/// The number of the attempt, starting with 1. Each retry counts its own attempts.
pub const ATTEMPT: &str = "attempt";
/// The outcome of a call or of an attempt.
///
/// | value | where | meaning | `ERROR` |
/// |---|---|---|---|
/// | `success` | span `call` | the classifier takes the result for no failure | |
/// | `failure` | span `call` | the service failed, or the body of its response did | yes |
/// | `success`, `ignored`, `transient`, `timed_out`, `overloaded`, `in_progress`, `permanent` | span `attempt`, events of retry | the classified [`Outcome`](crate::Outcome) | if it is a failure, or an error |
/// | `degraded` | span `call` | a layer gave the response instead of the service, see [`SOURCE`] | |
/// | `rejected` | both spans | a layer rejected the call or the attempt, or a timeout ended the call | yes |
/// | `cancelled` | both spans | its caller dropped the call, or the body of the response before its end, for example in code that reads only the status | |
/// | `cut` | both spans | the call or the attempt was dropped at or after its deadline, for example by a server or by the total timeout | yes |
/// | `panicked` | both spans | the service or another layer panicked | yes |
pub const OUTCOME: &str = "buttress.outcome";
/// The source of the response of a call, if a layer says so.
///
/// | value | source |
/// |---|---|
/// | `fallback` | a [fallback](crate::fallback), because the call failed |
/// | `stale` | an earlier response that is no longer fresh, because the call failed |
/// | `off` | a [fallback](crate::fallback) that is switched off |
/// | `cache` | a [cache](crate::cache), with a response that is not degraded |
pub const SOURCE: &str = "buttress.source";
/// The cause of a call or an attempt that failed, as one of few words.
///
/// It is the first of these that there is:
///
/// - the [`kind`](crate::Rejection::kind) of the rejection, such as `circuit_open` or `timed_out`;
/// - the [`error_type`](crate::Classify::error_type) of the classifier. Over HTTP it is the status,
///   such as `503`, the code of gRPC, such as `UNAVAILABLE`, or the kind of the client's error:
///   `connect`, `connect_timeout`, `timeout`, `reset`, `closed`, `goaway`, `refused_stream`,
///   `protocol`, `redirect`, `request` (it could not be sent) or `body` (it broke off);
/// - the name of the outcome, such as `transient`.
///
/// It is `panic` after a panic, and `timed_out` for what was cut.
pub const ERROR_TYPE: &str = "error.type";
/// The status of a span. It is `ERROR` for a failure, and not set otherwise.
///
/// `tracing-opentelemetry` makes it the status of its span. An attempt that failed has it even if a
/// later attempt saves the call.
pub const STATUS: &str = "otel.status_code";
/// The number of attempts of a call, if there was more than one.
pub const ATTEMPTS: &str = "buttress.attempts";
/// The number of the resend of an HTTP request. It is not set for the first send.
///
/// It is one less than the [number of the attempt](crate::context::Attempt::number). With several
/// retries around each other, it may be more than `attempt` minus 1.
///
/// OpenTelemetry defines this name.
pub const RESEND_COUNT: &str = "http.request.resend_count";
/// The pause before an attempt, in milliseconds.
pub const DELAY_MS: &str = "delay_ms";
/// A time limit, in milliseconds.
pub const LIMIT_MS: &str = "limit_ms";
/// The time after which a new call can succeed, in milliseconds.
pub const RETRY_AFTER_MS: &str = "retry_after_ms";
/// The reason for a decision or a failure.
pub const REASON: &str = "buttress.reason";
/// The age of a response, in milliseconds.
pub const AGE_MS: &str = "age_ms";
/// The number of events of the same layer and reason since the last one at this level, which were
/// emitted at `DEBUG`.
pub const SUPPRESSED: &str = "suppressed";
/// The time for which a circuit stays open, or was open, in milliseconds.
pub const OPEN_MS: &str = "open_ms";
/// The number of calls that were rejected while a circuit was open.
pub const REJECTED: &str = "rejected";
/// The number of probes that a half-open circuit admits.
pub const PROBES: &str = "probes";
/// The number of calls that wait in a queue.
pub const QUEUED: &str = "queued";
/// The maximum number of concurrent calls of a bulkhead.
pub const LIMIT: &str = "limit";
/// The key of a breaker by key, as its `describe_fn` describes it.
pub const BREAKER_KEY: &str = "circuit_breaker.key";
/// The address of an endpoint.
///
/// OpenTelemetry defines this name. The span of an attempt has it, or that of the call in a stack
/// without a retry, and events do. It is never an attribute of a metric.
pub const SERVER_ADDRESS: &str = "server.address";
/// The number of endpoints.
pub const ENDPOINTS: &str = "endpoints";
/// The time for which an endpoint is ejected, in milliseconds.
pub const OUT_MS: &str = "out_ms";
/// The key under which an idempotent operation is stored, in hexadecimal digits.
pub const KEY: &str = "idempotency.key";
/// The fence of a run.
pub const FENCE: &str = "idempotency.fence";
/// The duration of a step of the store, in milliseconds.
pub const STORE_MS: &str = "store_ms";
/// The fill level of a bounded store, or of the share of one scope, in percent.
pub const STORE_PERCENT: &str = "store_percent";
/// The change of a layer by hand, such as `force_open`.
pub const CONTROL: &str = "buttress.control";
/// The person or program that changed a layer by hand.
pub const ACTOR: &str = "buttress.actor";
/// The kind of an injected fault, such as `delay` or `lost_response`.
pub const FAULT: &str = "buttress.fault";
/// The number of the call with an injected fault, counted since the layer was armed.
pub const FAULT_CALL: &str = "chaos.call";
/// The number of faults that were injected while the layer was armed.
pub const INJECTED: &str = "chaos.injected";
