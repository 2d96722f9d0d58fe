//! From snapshots and declarations to a file tree and the values that the local API serves: a function of these.
//!
//! One entry's failure is its own: it keeps its last good conversion, and the others go on (promises 3 and 5).

mod entry;
mod places;

use std::collections::HashMap;
use std::sync::Arc;

use keyward_core::ledger::Charge;
use keyward_core::spec::{FilePath, ObjectSource, ObjectSpec, Source};
use keyward_core::{Error, Result, SecretBytes, Snapshot, Version};

use crate::conversions::Turn;
use crate::meter::{self, Meter};
use crate::template::Inputs;
use crate::tree::{File, Tree};
pub use entry::with_newline;
use entry::{Memory, Outcome};
use places::Places;

/// Modes and owners of files whose declaration says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Permission bits.
    pub mode: u32,
    /// Owner; `None` leaves it to the process.
    pub uid: Option<u32>,
    /// Group; `None` leaves it to the process.
    pub gid: Option<u32>,
}

/// One declared entry as it stands.
#[derive(Clone)]
pub struct Projected {
    /// What the application calls it.
    pub name: String,
    /// What the file holds, a final newline added where the declaration asks for one; or why there is nothing. The
    /// state of the snapshot (expired, revoked) is not judged here: files outlive it.
    pub value: Result<SecretBytes>,
    /// Its files: none, one, or the two of a pair.
    pub files: Vec<(FilePath, File)>,
    /// The version that the value comes from: the last that could be converted. `None` for templates.
    pub version: Option<Version>,
    /// Why the newest content is not what is shown, although an older value is.
    pub error: Option<Error>,
    /// What is suspicious about the value, for a warning in the log.
    pub advice: Option<&'static str>,
    /// Left out on purpose: `onRevoke: remove` applied.
    pub removed: bool,
    memory: Memory,
}

impl Projected {
    /// Whether a reader of the file or the API sees the same bytes in both (modes and owners included).
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.same(other, SecretBytes::same_as)
    }

    /// As [`Self::same_as`] without a look at bytes, for two that follow one another: a projection takes over what is the
    /// same from the one before.
    #[must_use]
    pub fn is_taken_over(&self, before: &Self) -> bool {
        self.same(before, SecretBytes::shares)
    }

    /// Whether `spec` makes its value each time, so that the same bytes are other memory.
    fn made_again(&self, spec: &ObjectSpec) -> bool {
        spec.newline || matches!(spec.source, Source::Template(_)) || !self.memory.is_of(&spec.source)
    }

    fn same(&self, other: &Self, same: fn(&SecretBytes, &SecretBytes) -> bool) -> bool {
        let same_value = match (&self.value, &other.value) {
            (Ok(a), Ok(b)) => same(a, b),
            (Err(a), Err(b)) => a.code() == b.code(),
            _ => false,
        };
        same_value
            && self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|((path, a), (other_path, b))| {
                path == other_path
                    && (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid)
                    && same(&a.content, &b.content)
            })
    }
}

/// All entries, in the order of their declaration, and the tree that they make together.
#[derive(Clone, Default)]
pub struct Projection {
    /// The entries.
    pub entries: Vec<Projected>,
    /// Their files.
    pub tree: Tree,
    /// Entries that must be there (not `optional`, not removed on purpose) and have no value, each with the reason.
    pub missing_required: Vec<(String, Error)>,
    /// Why there is no projection: it would hold more than it may. There are no entries then.
    pub refused: Option<Error>,
    /// Charged for what was made, as long as it is held.
    pub held: Option<Arc<Charge>>,
}

impl Projection {
    /// The entry that the application calls `name`.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Projected> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// Projects `specs` over the snapshots that `snapshot_of` gives. Once the turn is over, entries that were not converted
/// keep what they had, and say why.
///
/// `previous` is the last projection: content that did not change is not converted again, and an entry whose new
/// content cannot be converted, or is gone, keeps what it had as long as its declaration still has the same source.
/// Objects come first, then those whose key store needs the password of another entry, then templates in the order of
/// their declaration; a template sees objects and the templates before it, without the newline that `newline` adds.
/// `meter` bounds what is made; where it refuses, nothing further is made, and the projection is
/// [refused](Projection::refused) as a whole.
#[must_use]
pub fn project(
    turn: &Turn,
    specs: &[ObjectSpec],
    snapshot_of: &dyn Fn(&ObjectSource) -> Option<Arc<Snapshot>>,
    previous: Option<&Projection>,
    defaults: &Defaults,
    mut meter: Meter,
) -> Projection {
    match project_with(Some(turn), specs, snapshot_of, previous, defaults, &mut meter) {
        // With a turn there is always one.
        Ok(projection) => charged(projection.unwrap_or_default(), meter),
        Err(error) => refused(error),
    }
}

/// As [`project`], where that is a matter of counting references: every value is delivered as the provider gives it, or
/// was converted before. `None` where something must be computed, which takes a turn.
#[must_use]
pub fn project_as_it_is(
    specs: &[ObjectSpec],
    snapshot_of: &dyn Fn(&ObjectSource) -> Option<Arc<Snapshot>>,
    previous: Option<&Projection>,
    defaults: &Defaults,
    mut meter: Meter,
) -> Option<Projection> {
    let templates = specs.iter().any(|spec| matches!(spec.source, Source::Template(_)));
    if templates {
        return None;
    }
    match project_with(None, specs, snapshot_of, previous, defaults, &mut meter) {
        Ok(projection) => projection.map(|projection| charged(projection, meter)),
        Err(error) => Some(refused(error)),
    }
}

fn charged(projection: Projection, meter: Meter) -> Projection {
    Projection { held: Some(Arc::new(meter.finish())), ..projection }
}

fn refused(error: Error) -> Projection {
    Projection { refused: Some(error), ..Projection::default() }
}

fn project_with(
    turn: Option<&Turn>,
    specs: &[ObjectSpec],
    snapshot_of: &dyn Fn(&ObjectSource) -> Option<Arc<Snapshot>>,
    previous: Option<&Projection>,
    defaults: &Defaults,
    meter: &mut Meter,
) -> Result<Option<Projection>> {
    let before: HashMap<&str, &Projected> = previous
        .map(|previous| previous.entries.iter().map(|entry| (entry.name.as_str(), entry)).collect())
        .unwrap_or_default();
    let mut outcomes: Vec<Option<Outcome>> = specs.iter().map(|_| None).collect();
    let mut inputs = Inputs::new();
    let mut removed = Vec::new();
    for stage in [Stage::Objects, Stage::Stores, Stage::Templates] {
        let mut made = Vec::new();
        for (index, spec) in specs.iter().enumerate().filter(|(_, spec)| Stage::of(&spec.source) == stage) {
            let earlier = before.get(spec.name.as_str()).map(|entry| &entry.memory);
            let snapshot = match &spec.source {
                Source::Object(source) => snapshot_of(source),
                Source::Template(_) => None,
            };
            let fetched = snapshot.as_ref().and_then(|snapshot| snapshot.fetched.as_deref());
            let outcome = match &spec.source {
                Source::Object(source) => {
                    let bound = if turn.is_some() { meter::bound(source, fetched) } else { 0 };
                    meter.begin(bound, bound)?;
                    entry::object(turn, spec, source, snapshot.as_deref(), &inputs, earlier)
                }
                Source::Template(text) => match turn {
                    Some(turn) => Some(entry::template(turn, spec, text, &inputs, &removed, earlier, meter)?),
                    None => None,
                },
            };
            let Some(outcome) = outcome else { return Ok(None) };
            if turn.is_none()
                && let Ok(converted) = &outcome.value
                && entry::lacks_newline(spec, &converted.value)
            {
                return Ok(None);
            }
            if let Ok(converted) = &outcome.value {
                meter.end(meter::made(converted, fetched).saturating_add(entry::newline(spec, converted)))?;
                meter.count(entry::payload(spec, converted))?;
            } else {
                meter.end(0)?;
            }
            if outcome.removed {
                removed.push(spec.name.clone());
            }
            let input =
                (spec.name.clone(), outcome.value.as_ref().map(|c| c.value.clone()).map_err(Error::clone));
            // A store sees no other store, a template the templates before it.
            if stage == Stage::Templates {
                inputs.extend([input]);
            } else {
                made.push(input);
            }
            if let Some(place) = outcomes.get_mut(index) {
                *place = Some(outcome);
            }
        }
        inputs.extend(made);
    }
    Ok(Some(assemble(specs, outcomes.into_iter().flatten(), &before, defaults)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Objects,
    Stores,
    Templates,
}

impl Stage {
    fn of(source: &Source) -> Self {
        match source {
            Source::Object(ObjectSource { password_from: None, .. }) => Self::Objects,
            Source::Object(_) => Self::Stores,
            Source::Template(_) => Self::Templates,
        }
    }
}

fn assemble(
    specs: &[ObjectSpec],
    outcomes: impl Iterator<Item = Outcome>,
    before: &HashMap<&str, &Projected>,
    defaults: &Defaults,
) -> Projection {
    let mut projection = Projection { entries: Vec::with_capacity(specs.len()), ..Projection::default() };
    let mut places = Places::default();
    for (spec, mut outcome) in specs.iter().zip(outcomes) {
        let files = match &outcome.value {
            Ok(converted) => places.claim(spec.files(), entry::contents(spec, converted)),
            Err(_) => Ok(Vec::new()),
        };
        let files = files.unwrap_or_else(|error| {
            outcome.value = Err(error);
            Vec::new()
        });
        let earlier = before.get(spec.name.as_str()).filter(|earlier| earlier.made_again(spec));
        let value = outcome.value.map(|converted| {
            let value = entry::with_newline(spec, &converted.value);
            let same =
                earlier.and_then(|earlier| earlier.value.as_ref().ok()).filter(|it| it.same_as(&value));
            same.cloned().unwrap_or(value)
        });
        if let Err(error) = &value
            && !spec.optional
            && !outcome.removed
        {
            projection.missing_required.push((spec.name.clone(), error.clone()));
        }
        let file = |content| File {
            content,
            mode: spec.mode.unwrap_or(defaults.mode),
            uid: spec.uid.or(defaults.uid),
            gid: spec.gid.or(defaults.gid),
        };
        let files: Vec<_> = files
            .into_iter()
            .map(|(path, content)| {
                let known =
                    earlier.and_then(|earlier| earlier.files.iter().find(|(known, _)| *known == path));
                let same = known.map(|(_, file)| &file.content).filter(|known| known.same_as(&content));
                (path, file(same.cloned().unwrap_or(content)))
            })
            .collect();
        projection.tree.files.extend(files.iter().cloned());
        projection.entries.push(Projected {
            name: spec.name.clone(),
            value,
            files,
            version: outcome.version,
            error: outcome.error,
            advice: outcome.advice,
            removed: outcome.removed,
            memory: outcome.memory,
        });
    }
    projection
}
