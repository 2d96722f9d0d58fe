use std::pin::Pin;
use std::sync::Arc;

use keyward_core::spec::{ObjectSource, ObjectSpec, Source};
use keyward_core::{Code, Error, Result};
use keyward_delivery::Meter;
use keyward_delivery::conversions::Turn;
use keyward_delivery::projection::{Projection, project, project_as_it_is};

use super::guard::Snapshots;
use super::{Declared, Engine, request};

/// A projection that is being made. It needs nothing of its engine until [`Engine::finish`]; dropping it ends the
/// conversions that it takes.
pub struct Projecting {
    declared: Arc<Declared>,
    snapshots: Snapshots,
    /// The right to read was in doubt when it began.
    unproved: bool,
    work: Work,
}

enum Work {
    /// `None` when it could not be made.
    Done(Option<Made>),
    Under(Pin<Box<dyn Future<Output = Result<Made>> + Send>>),
}

struct Made {
    projection: Arc<Projection>,
    mentions: Option<Arc<Mentions>>,
}

/// Which entries each template mentions, by their places in the declaration.
#[derive(Default)]
pub(super) struct Mentions(Vec<Vec<usize>>);

impl Mentions {
    fn find(specs: &[ObjectSpec], turn: Option<&Turn>) -> Self {
        let mentioned = |spec: &ObjectSpec| match &spec.source {
            Source::Template(text) if turn.is_none_or(|turn| turn.check().is_ok()) => {
                let named = |at: &usize| specs.get(*at).is_some_and(|spec| text.contains(&spec.name));
                (0..specs.len()).filter(named).collect()
            }
            _ => Vec::new(),
        };
        Self(specs.iter().map(mentioned).collect())
    }

    pub(super) fn of(&self, at: usize) -> impl Iterator<Item = usize> {
        self.0.get(at).into_iter().flatten().copied()
    }
}

impl Projecting {
    /// Returns when it is made. Cancel-safe.
    pub async fn ready(&mut self) {
        if let Work::Under(work) = &mut self.work {
            let made = work.await;
            if let Err(error) = &made {
                tracing::warn!(%error, "the content of a volume could not be converted");
            }
            self.work = Work::Done(made.ok());
        }
    }

    pub(super) fn is_unproved(&self) -> bool {
        self.unproved
    }

    /// Why it is not to be shown: it would hold more than the pod may.
    pub(super) fn refused(&self) -> Option<&Error> {
        match &self.work {
            Work::Done(Some(made)) => made.projection.refused.as_ref(),
            _ => None,
        }
    }

    pub(super) fn is_of(&self, declared: &Arc<Declared>) -> bool {
        Arc::ptr_eq(&self.declared, declared)
    }
}

impl Engine {
    /// Begins to project the current snapshots. What takes conversions runs in the pod's turn, off the thread that answers
    /// lookups; it goes on while the caller does something else.
    #[must_use]
    pub fn begin(&mut self) -> Projecting {
        let shown = self.admit();
        self.begin_with(shown)
    }

    pub(super) fn begin_with(&self, snapshots: Snapshots) -> Projecting {
        let declared = Arc::clone(&self.declared);
        let work = match &self.latest {
            Some(latest) if self.unproved => {
                Work::Done(Some(Made { projection: Arc::clone(latest), mentions: None }))
            }
            _ => self.work(&declared, &snapshots),
        };
        Projecting { declared, snapshots, unproved: self.unproved, work }
    }

    /// The last projection once more, or the current one where there is none.
    pub(super) fn begin_with_latest(&mut self) -> Projecting {
        let Some(latest) = self.latest.clone() else { return self.begin() };
        let made = Made { projection: latest, mentions: None };
        Projecting {
            declared: Arc::clone(&self.declared),
            snapshots: self.admit(),
            unproved: self.unproved,
            work: Work::Done(Some(made)),
        }
    }

    fn work(&self, declared: &Arc<Declared>, snapshots: &Snapshots) -> Work {
        let look = |source: &ObjectSource| snapshots.get(&request(source)).cloned();
        let previous = self.latest.clone();
        let meter = || Meter::new(&self.parts.account, self.parts.most_payload);
        let plain =
            project_as_it_is(&declared.specs, &look, previous.as_deref(), &declared.defaults, meter());
        if let Some(projection) = plain {
            return Work::Done(Some(Made { projection: Arc::new(projection), mentions: None }));
        }
        let known = self.known_mentions();
        let (declared, snapshots) = (Arc::clone(declared), snapshots.clone());
        let payer = self.parts.conversions.clone();
        let meter = meter();
        let work = move |turn: &Turn| {
            let look = |source: &ObjectSource| snapshots.get(&request(source)).cloned();
            let projection =
                project(turn, &declared.specs, &look, previous.as_deref(), &declared.defaults, meter);
            let mentions = known.unwrap_or_else(|| Arc::new(Mentions::find(&declared.specs, Some(turn))));
            Made { projection: Arc::new(projection), mentions: Some(mentions) }
        };
        Work::Under(Box::pin(async move { payer.run(work).await }))
    }

    /// What was made, and of which snapshots. What could not be made leaves what there was.
    pub(super) fn take(&mut self, projecting: Projecting) -> (Arc<Projection>, Snapshots) {
        let Projecting { declared, snapshots, work, .. } = projecting;
        let made = match work {
            Work::Done(made) => made,
            Work::Under(_) => None,
        };
        let projection = match made {
            Some(Made { projection, mentions }) => {
                if let Some(mentions) = mentions {
                    self.mentions = Some((declared, mentions));
                }
                projection
            }
            None => self.latest.clone().unwrap_or_else(|| Arc::new(nothing(&declared, &defect()))),
        };
        (projection, snapshots)
    }

    fn known_mentions(&self) -> Option<Arc<Mentions>> {
        let (_, mentions) = self.mentions.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &self.declared))?;
        Some(Arc::clone(mentions))
    }

    pub(super) fn mentions(&mut self) -> Arc<Mentions> {
        if let Some(known) = self.known_mentions() {
            return known;
        }
        let templates = self.declared.specs.iter().any(|spec| matches!(spec.source, Source::Template(_)));
        if !templates {
            return Arc::default();
        }
        let mentions = Arc::new(Mentions::find(&self.declared.specs, None));
        self.mentions = Some((Arc::clone(&self.declared), Arc::clone(&mentions)));
        mentions
    }
}

fn defect() -> Error {
    Error::new(Code::Internal, "the volume's content could not be converted")
}

/// What a defect or a refusal leaves: no entry, and none of them complete, so that no volume is mounted empty.
pub(super) fn nothing(declared: &Declared, reason: &Error) -> Projection {
    let missing = declared.specs.iter().map(|spec| (spec.name.clone(), reason.clone()));
    Projection { missing_required: missing.collect(), ..Projection::default() }
}
