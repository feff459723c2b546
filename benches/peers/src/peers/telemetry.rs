//! The exporters of the peers' metrics.

use std::sync::OnceLock;

use metrics_exporter_prometheus::PrometheusBuilder;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};

/// Returns the provider of OpenTelemetry, whose numbers are kept in memory once a minute.
pub fn provider() -> &'static SdkMeterProvider {
    static PROVIDER: OnceLock<SdkMeterProvider> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        SdkMeterProvider::builder()
            .with_periodic_exporter(InMemoryMetricExporter::default())
            .build()
    })
}

/// Installs the Prometheus recorder of the crate `metrics`. Nothing scrapes it.
#[allow(dead_code, reason = "only the binary `telemetry` needs it")]
pub fn install_recorder() {
    PrometheusBuilder::new().install_recorder().expect("the first recorder");
}
