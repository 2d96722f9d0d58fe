//! What a restart goes on with: what is on the volume is the last good state, whatever is remembered of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward_core::FetchRequest;
use keyward_core::spec::{FilePath, ObjectSource, ObjectSpec, Source};
use keyward_delivery::projection::Projection;
use keyward_delivery::tree::File;

use super::guard::Snapshots;
use super::{Declared, request};

/// The files that readers see, by path.
pub(super) type OnVolume = BTreeMap<FilePath, File>;

/// An entry whose files are not what is remembered of it: a process was killed between two steps, its snapshot was not to
/// be kept, or another release makes another file of the same value. Its files stay until the provider confirms all that
/// they are made of.
pub(super) struct Apart {
    name: String,
    files: Vec<(FilePath, File)>,
    /// It is required, and not all of its files are there.
    lacks: bool,
}

/// The entries of `projection` whose files are not those on the volume.
pub(super) fn apart(declared: &Declared, projection: &Projection, on_volume: &OnVolume) -> Vec<Apart> {
    let differs = |spec: &&ObjectSpec| {
        let entry = projection.entry(&spec.name);
        let made: BTreeMap<_, _> = entry.iter().flat_map(|entry| &entry.files).map(|(p, f)| (p, f)).collect();
        spec.files().iter().any(|path| match (made.get(path), on_volume.get(path)) {
            (Some(made), Some(there)) => !is_same(made, there),
            (None, None) => false,
            _ => true,
        })
    };
    let apart = declared.specs.iter().filter(differs).map(|spec| {
        let paths = spec.files();
        let there = |path: FilePath| on_volume.get(&path).map(|file| (path, file.clone()));
        let files: Vec<_> = paths.iter().cloned().filter_map(there).collect();
        Apart { name: spec.name.clone(), lacks: !spec.optional && files.len() < paths.len(), files }
    });
    apart.collect()
}

/// Whether each of `apart` may now be what was made of it: everything that goes into it was confirmed.
pub(super) fn is_settled(
    apart: &Apart,
    declared: &Declared,
    projection: &Projection,
    shown: &Snapshots,
) -> bool {
    let Some(spec) = declared.specs.iter().find(|spec| spec.name == apart.name) else { return true };
    // Its owner wants it gone, and the provider has said so for long enough.
    if projection.entry(&apart.name).is_some_and(|entry| entry.removed) {
        return true;
    }
    requests_of(spec, declared).all(|request| shown.get(&request).is_some_and(|now| now.asked.is_some()))
}

/// What an entry is made of. Which objects a template uses is only known when it is rendered.
fn requests_of<'a>(spec: &'a ObjectSpec, declared: &'a Declared) -> impl Iterator<Item = FetchRequest> + 'a {
    let alone = matches!(&spec.source, Source::Object(ObjectSource { password_from: None, .. }));
    declared.specs.iter().filter(move |other| !alone || other.name == spec.name).filter_map(
        |spec| match &spec.source {
            Source::Object(source) => Some(request(source)),
            Source::Template(_) => None,
        },
    )
}

/// `projection` with the files of `apart` as they are on the volume, and whether something required is not there yet.
pub(super) fn laid_over(projection: &Arc<Projection>, apart: &[Apart]) -> (Arc<Projection>, bool) {
    if apart.is_empty() {
        return (Arc::clone(projection), false);
    }
    let mut laid = (**projection).clone();
    for apart in apart {
        for entry in laid.entries.iter_mut().filter(|entry| entry.name == apart.name) {
            for (path, _) in &entry.files {
                laid.tree.files.remove(path);
            }
            entry.files.clone_from(&apart.files);
            entry.version = None;
        }
        laid.tree.files.extend(apart.files.iter().cloned());
        if !apart.lacks {
            laid.missing_required.retain(|(name, _)| *name != apart.name);
        }
    }
    let lacks = apart.iter().any(|apart| apart.lacks);
    (Arc::new(laid), lacks)
}

/// Whether a file is as it was made. An owner that is left to the process is whatever the file has.
fn is_same(made: &File, there: &File) -> bool {
    made.mode & 0o777 == there.mode
        && made.uid.is_none_or(|uid| Some(uid) == there.uid)
        && made.gid.is_none_or(|gid| Some(gid) == there.gid)
        && made.content.same_as(&there.content)
}

/// What becomes of those entries when they are declared otherwise: files of another declaration are not theirs, and
/// nothing replaces them before the provider has confirmed what does.
pub(super) fn redeclared(apart: &mut [Apart], before: &Declared, now: &Declared) {
    let spec =
        |declared: &Declared, name: &str| declared.specs.iter().find(|spec| spec.name == name).cloned();
    for apart in apart {
        let now = spec(now, &apart.name);
        if now != spec(before, &apart.name) {
            apart.lacks = now.is_some_and(|now| !now.optional);
            apart.files.clear();
        }
    }
}

/// What those entries are made of.
pub(super) fn requests(apart: &[Apart], declared: &Declared) -> Vec<FetchRequest> {
    let specs = declared.specs.iter().filter(|spec| apart.iter().any(|apart| apart.name == spec.name));
    specs.flat_map(|spec| requests_of(spec, declared)).collect()
}

/// The files that a declaration names.
pub(super) fn paths(declared: &Declared) -> Vec<FilePath> {
    declared.specs.iter().flat_map(ObjectSpec::files).collect()
}
