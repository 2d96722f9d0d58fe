use std::collections::BTreeMap;
use std::time::Duration;

/// What is measured of the victims, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// NodePublishVolume of plain objects.
    Publish,
    /// NodePublishVolume of a key store, a PEM bundle and a template.
    Convert,
    /// From a new version in the vault to the file.
    File,
    /// GetSecret.
    Lookup,
    /// NodeUnpublishVolume.
    Unpublish,
    /// What kubelet's liveness probe asks.
    Probe,
    /// An AdmissionReview of the API server.
    Review,
}

impl Figure {
    pub(crate) const NODE: [Self; 6] =
        [Self::Publish, Self::Convert, Self::File, Self::Lookup, Self::Unpublish, Self::Probe];
    pub(crate) const INJECTOR: [Self; 2] = [Self::Review, Self::Probe];

    /// The quantile that counts.
    pub(crate) fn quantile(self) -> f64 {
        if self == Self::Lookup { 0.99 } else { 0.95 }
    }

    /// What it may rise by, however small it is in peace.
    pub(crate) fn slack(self) -> Duration {
        match self {
            Self::Lookup => Duration::from_micros(500),
            Self::File => Duration::from_millis(50),
            _ => Duration::from_millis(2),
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Publish => "publish p95",
            Self::Convert => "publish with conversions p95",
            Self::File => "new version to file p95",
            Self::Lookup => "lookup p99",
            Self::Unpublish => "unpublish p95",
            Self::Probe => "probe p95",
            Self::Review => "review p95",
        }
    }
}

/// Durations by figure.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<Figure, Vec<Duration>>);

impl Samples {
    pub(crate) fn push(&mut self, figure: Figure, sample: Duration) {
        self.0.entry(figure).or_default().push(sample);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (figure, mut samples) in other.0 {
            self.0.entry(figure).or_default().append(&mut samples);
        }
    }

    pub(crate) fn count(&self, figure: Figure) -> usize {
        self.0.get(&figure).map_or(0, Vec::len)
    }

    /// The quantile of a figure that counts: the smallest sample that this share of all are not above.
    pub(crate) fn value(&self, figure: Figure) -> Option<Duration> {
        let mut sorted = self.0.get(&figure)?.clone();
        sorted.sort_unstable();
        let index = (sorted.len() as f64 * figure.quantile()).ceil() as usize;
        sorted.get(index.saturating_sub(1)).copied()
    }
}
