//! Metrics that are read when somebody scrapes, from code that this room must not depend on.

use std::sync::Arc;

use keyward_core::ledger::{Kind, Ledger};
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

pub(super) struct Hook {
    name: &'static str,
    help: &'static str,
    read: Read,
}

enum Read {
    Gauge(Box<dyn Fn() -> i64 + Send + Sync>),
    Counter(Box<dyn Fn() -> u64 + Send + Sync>),
    Seconds(Box<dyn Fn() -> Duration + Send + Sync>),
    SecondsInAll(Box<dyn Fn() -> Duration + Send + Sync>),
    Held(Arc<Ledger>),
}

impl Hook {
    pub(super) fn gauge(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        Self { name, help, read: Read::Gauge(Box::new(read)) }
    }

    pub(super) fn seconds(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { name, help, read: Read::Seconds(Box::new(read)) }
    }

    pub(super) fn seconds_in_all(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { name, help, read: Read::SecondsInAll(Box::new(read)) }
    }

    pub(super) fn counter(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { name, help, read: Read::Counter(Box::new(read)) }
    }

    /// What a ledger holds, a gauge for each kind.
    pub(super) fn held(name: &'static str, help: &'static str, ledger: Arc<Ledger>) -> Self {
        Self { name, help, read: Read::Held(ledger) }
    }
}

impl Collector for Hook {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        match &self.read {
            Read::Gauge(read) => {
                let metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
                ConstGauge::new(read()).encode(metric)
            }
            Read::Seconds(read) => {
                let metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
                ConstGauge::new(read().as_secs_f64()).encode(metric)
            }
            Read::SecondsInAll(read) => {
                let metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
                ConstCounter::new(read().as_secs_f64()).encode(metric)
            }
            Read::Counter(read) => {
                let metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
                ConstCounter::new(read()).encode(metric)
            }
            Read::Held(ledger) => {
                let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
                let held = ledger.held();
                for kind in Kind::ALL {
                    let amount = i64::try_from(held.of(*kind)).unwrap_or(i64::MAX);
                    let labels = [("kind", kind.as_str())];
                    ConstGauge::new(amount).encode(metric.encode_family(&labels)?)?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
