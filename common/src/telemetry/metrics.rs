//! The process-wide Prometheus recorder.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// The buckets of every histogram in seconds.
const SECONDS_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Why metrics could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be set up: {0}")]
pub struct MetricsError(#[from] BuildError);

/// A handle on the recorder that every `metrics::counter!` and the like write to.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder, once per process.
    ///
    /// # Errors
    /// When a recorder was installed before.
    pub fn install() -> Result<Self, MetricsError> {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?;
        let handle = builder.install_recorder()?;
        describe();
        Ok(Self { handle })
    }

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

/// Says what the metrics of this crate mean.
fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("switchyard_panics_total", "Panics caught, by task.");
    describe_counter!("switchyard_subsystem_restarts_total", "Restarts of subsystems that failed.");
    describe_gauge!("switchyard_broker_connected", "1 while the broker connection of this role is up.");
    describe_counter!("switchyard_broker_reconnects_total", "Broker connections after the first, by role.");
    describe_counter!("switchyard_broker_publishes_total", "Publishes by outcome.");
    describe_histogram!("switchyard_broker_confirm_seconds", "Time from writing a message to its outcome.");
    describe_counter!(
        "switchyard_broker_dropped_total",
        "Deliveries without acks that were dropped because their receiver was too slow."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_and_a_second_install_fails() {
        let metrics = Metrics::install().unwrap();
        metrics::counter!("switchyard_panics_total", "task" => "rendered").increment(2);
        metrics::histogram!("switchyard_broker_confirm_seconds").record(0.003);
        let text = metrics.render();
        assert!(text.contains(r#"switchyard_panics_total{task="rendered"} 2"#), "{text}");
        assert!(text.contains(r#"switchyard_broker_confirm_seconds_bucket{le="0.005"}"#), "{text}");
        assert!(Metrics::install().is_err());
    }
}
