//! The names of the fields of spans and events.

/// The name of the layer, as it was configured.
pub const LAYER: &str = "layer";
/// Which attempt: the first is 1.
pub const ATTEMPT: &str = "attempt";
/// How a call or an attempt ended.
pub const OUTCOME: &str = "outcome";
/// What kind of error it ended with, where it did.
pub const ERROR_TYPE: &str = "error.type";
/// Which resend of an HTTP request this is; not set for the first time that it is sent. The name is
/// OpenTelemetry's.
pub const RESEND_COUNT: &str = "http.request.resend_count";
/// The pause before an attempt, in milliseconds.
pub const DELAY_MS: &str = "delay_ms";
/// A time limit, in milliseconds.
pub const LIMIT_MS: &str = "limit_ms";
/// When to come back, in milliseconds.
pub const RETRY_AFTER_MS: &str = "retry_after_ms";
/// Why something was decided.
pub const REASON: &str = "reason";
/// How long a circuit stays open, in milliseconds.
pub const OPEN_MS: &str = "open_ms";
/// How many probes a half-open circuit lets through.
pub const PROBES: &str = "probes";
/// How many calls wait in a queue.
pub const QUEUED: &str = "queued";
/// How many calls a bulkhead lets run at once.
pub const LIMIT: &str = "limit";
/// What a guarded operation is stored under, in hexadecimal digits.
pub const KEY: &str = "idempotency.key";
/// The fence of a run.
pub const FENCE: &str = "idempotency.fence";
/// How long a step of the store took, in milliseconds.
pub const STORE_MS: &str = "store_ms";
