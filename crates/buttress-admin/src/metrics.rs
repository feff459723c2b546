//! The numbers of a registry in the text format of Prometheus.

use std::fmt::Write;

use buttress::telemetry::{InstrumentKind, Registry, Value};

/// Returns the content type and the numbers.
///
/// `accept` is the header of the request.
pub(crate) fn metrics(registry: &Registry, accept: Option<&str>) -> (&'static str, String) {
    let _ = accept;
    let mut out = String::new();
    for family in registry.gather() {
        let instrument = family.instrument;
        let suffix = match (instrument.unit, instrument.kind) {
            ("s", _) => "_seconds",
            ("1", _) if !instrument.name.ends_with("ratio") => "_ratio",
            (_, InstrumentKind::Counter) => "_total",
            _ => "",
        };
        let name = format!("{}{suffix}", instrument.name.replace('.', "_"));
        let kind = match instrument.kind {
            InstrumentKind::Counter => "counter",
            InstrumentKind::Histogram => "histogram",
            _ => "gauge",
        };
        _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", instrument.help);
        for series in &family.series {
            let labels = series.attributes.iter().map(|(key, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{}=\"{value}\"", key.replace('.', "_"))
            });
            let labels: Vec<_> = labels.collect();
            let labels = labels.join(",");
            match &series.value {
                Value::Number(number) if labels.is_empty() => {
                    _ = writeln!(out, "{name} {number}");
                }
                Value::Number(number) => _ = writeln!(out, "{name}{{{labels}}} {number}"),
                Value::Histogram(histogram) => {
                    let mut count = 0;
                    for (bound, more) in histogram.buckets() {
                        count += more;
                        let bound =
                            if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                        _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
                    }
                    let sum = histogram.sum().as_secs_f64();
                    _ = writeln!(
                        out,
                        "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}"
                    );
                }
                _ => {}
            }
        }
    }
    ("text/plain; version=0.0.4; charset=utf-8", out)
}
