//! The targets of the lines, one for each kind of layer.

pub(crate) const CALL: &str = "buttress::call";
pub(crate) const RETRY: &str = "buttress::retry";
pub(in crate::telemetry) const FALLBACK: &str = "buttress::fallback";
pub(in crate::telemetry) const BULKHEAD: &str = "buttress::bulkhead";
pub(in crate::telemetry) const CIRCUIT_BREAKER: &str = "buttress::circuit_breaker";
pub(in crate::telemetry) const ENDPOINTS: &str = "buttress::endpoints";
pub(in crate::telemetry) const IDEMPOTENCY: &str = "buttress::idempotency";
pub(in crate::telemetry) const CHAOS: &str = "buttress::chaos";
pub(in crate::telemetry) const CACHE: &str = "buttress::cache";
