//! A recorder that is installed after the layers and the collector. A process has only one.

use std::io;

use buttress::{
    Stack,
    retry::ReplayClones,
    telemetry::{BUCKETS, Registry},
};
use buttress_metrics::Collector;
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn a_late_recorder_has_whole_counters_and_later_durations() {
    let registry = Registry::new();
    let collector = Collector::new(&registry);
    let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("broken")) });
    let stack = Stack::standard(ReplayClones).name("orders").register(&registry).service(broken);
    let call = async || stack.clone().oneshot(7).await.unwrap_err();
    call().await;
    collector.collect();

    let prometheus = PrometheusBuilder::new().with_recommended_naming(true);
    let handle = prometheus.set_buckets(&BUCKETS).unwrap().install_recorder().unwrap();
    collector.collect();
    let number = |name: &str| -> f64 {
        let text = handle.render();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let (resends, pauses) =
        ("buttress_attempt_resends_total", "buttress_retry_delay_seconds_count");
    let before = number(resends);
    assert!(before > 0.0);
    assert_eq!(number(pauses), 0.0);

    call().await;
    collector.collect();
    assert_eq!(number(pauses), number(resends) - before);
    assert!(number(pauses) > 0.0);
}
