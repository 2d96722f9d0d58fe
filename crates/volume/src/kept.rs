//! What readers of one volume are given, written down before they are: a restart is no worse than an outage, and never
//! begins with something older.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::{Broker, Saved};
use keyward_core::ledger::{Account, Charge, Kind};
use keyward_core::{IdentityKey, Result, Snapshot, State};
use keyward_delivery::saved::{self, SavedObject};
use parking_lot::Mutex;

/// The place where one volume's values outlive a restart: one file that only Keyward reads, paid for by the volume's pod.
/// Clones are the same place.
#[derive(Clone)]
pub struct Kept(Arc<Inner>);

struct Inner {
    directory: Arc<OwnedFd>,
    name: String,
    account: Account,
    /// Taken while the file is written.
    file: Mutex<File>,
    /// What the file holds; nothing while there is none. Taken for moments only.
    written: Mutex<Option<Vec<Arc<Snapshot>>>>,
}

#[derive(Default)]
struct File {
    charge: Option<Charge>,
    /// The volume is gone: nothing is written any more.
    closed: bool,
}

/// What an earlier process left of one volume.
#[derive(Clone, Default)]
pub struct Found {
    /// The values that its readers were given last, or were about to be given.
    pub objects: Vec<Saved>,
    /// An earlier release wrote it: readers may have been given something newer.
    pub is_behind: bool,
}

impl Kept {
    /// The place `name` in `directory`; its bytes are charged to `account`. Nothing is read or written yet.
    #[must_use]
    pub fn new(directory: Arc<OwnedFd>, name: &str, account: Account) -> Self {
        Self(Arc::new(Inner {
            directory,
            name: name.to_owned(),
            account,
            file: Mutex::default(),
            written: Mutex::default(),
        }))
    }

    /// Opens a directory for one volume, and reads what an earlier process left there for this identity. Damage is
    /// reported and forgotten.
    ///
    /// # Errors
    /// `KW_TMPFS_REQUIRED` or `KW_FILE_SYSTEM`, naming the path and the fix.
    pub fn open(path: &Path, identity: &Arc<IdentityKey>) -> Result<(Self, Found)> {
        let directory = saved::open(path)?;
        let loaded = saved::load(&directory, saved::ONLY, std::slice::from_ref(identity))?;
        Ok((Self::new(Arc::new(directory), saved::ONLY, Account::unlimited()), Found::of(loaded)))
    }

    /// What to write down before readers are shown `shown`; `None` when that very content is written down already.
    pub(crate) fn next(&self, shown: Vec<Arc<Snapshot>>) -> Option<Keeping> {
        let shown: Vec<_> = shown.into_iter().filter(|snapshot| is_to_outlive(snapshot)).collect();
        let written = self.0.written.lock();
        let same = written.as_ref().is_some_and(|written| {
            written.len() == shown.len() && written.iter().zip(&shown).all(|(a, b)| same_content(a, b))
        });
        (!same).then(|| Keeping { kept: self.clone(), shown })
    }

    /// Writes the values down again, with the times at which they were confirmed since, when that makes one of them
    /// younger by `at_least`. May block.
    ///
    /// # Errors
    /// As for any other save; there is no file then.
    pub fn renew(&self, broker: &Broker, at_least: Duration) -> Result<()> {
        let mut file = self.0.file.lock();
        let Some(written) = self.0.written.lock().clone() else { return Ok(()) };
        let mut younger = Duration::ZERO;
        let renewed: Vec<_> = written
            .into_iter()
            .map(|kept| match broker.peek(&kept.key) {
                Some(now) if same_content(&kept, &now) && now.confirmed > kept.confirmed => {
                    let by =
                        now.confirmed.unwrap_or_default().saturating_sub(kept.confirmed.unwrap_or_default());
                    younger = younger.max(by);
                    now
                }
                _ => kept,
            })
            .collect();
        if younger.is_zero() || younger < at_least {
            return Ok(());
        }
        self.0.write(&mut file, renewed)
    }

    /// Removes the file, for good: the volume is gone. May block.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when it cannot be removed; the next start removes it.
    pub fn forget(&self) -> Result<()> {
        let mut file = self.0.file.lock();
        file.closed = true;
        self.0.remove(&mut file)
    }
}

impl Inner {
    /// Writes `shown` down. Without room, or whatever fails, there is no file: an old one would come back at the next
    /// start in place of what readers are about to be given.
    fn write(&self, file: &mut File, shown: Vec<Arc<Snapshot>>) -> Result<()> {
        if file.closed {
            return Ok(());
        }
        if shown.is_empty() {
            self.remove(file)?;
            *self.written.lock() = Some(shown);
            return Ok(());
        }
        let objects: Vec<_> = shown.iter().filter_map(|snapshot| object(snapshot)).collect();
        // The old file is there until the new one replaces it.
        let charge = self.account.charge(Kind::Kept, saved::size(&objects))?;
        saved::save(&self.directory, &self.name, &objects)?;
        file.charge = Some(charge);
        *self.written.lock() = Some(shown);
        Ok(())
    }

    fn remove(&self, file: &mut File) -> Result<()> {
        *self.written.lock() = None;
        saved::remove(&self.directory, &self.name)?;
        file.charge = None;
        Ok(())
    }
}

/// A snapshot on its way to the file.
pub(crate) struct Keeping {
    kept: Kept,
    shown: Vec<Arc<Snapshot>>,
}

impl Keeping {
    /// Writes it down. May block. Gives the reason when that was not possible and readers may be shown the values all the
    /// same: a restart would then begin with nothing for this volume, and not with something older.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when not even the old file can be removed: nothing newer may be shown.
    pub(crate) fn run(self) -> Result<Option<keyward_core::Error>> {
        let inner = &self.kept.0;
        let mut file = inner.file.lock();
        match inner.write(&mut file, self.shown) {
            Ok(()) => Ok(None),
            Err(error) => inner.remove(&mut file).map(|()| Some(error)),
        }
    }
}

impl Found {
    /// Takes what was read from a file. Damage is reported and forgotten.
    #[must_use]
    pub fn of(loaded: saved::Loaded) -> Self {
        if let Some(error) = loaded.damaged {
            tracing::warn!(%error, "the kept snapshot is not used");
        }
        let saved = |object: SavedObject| Saved {
            key: object.key,
            fetched: object.fetched,
            confirmed_wall: object.confirmed,
        };
        Self { objects: loaded.objects.into_iter().map(saved).collect(), is_behind: loaded.is_behind }
    }
}

/// A restart must not give back what the provider has taken away.
fn is_to_outlive(snapshot: &Snapshot) -> bool {
    snapshot.state != State::Revoked && snapshot.fetched.is_some() && snapshot.confirmed.is_some()
}

fn same_content(a: &Snapshot, b: &Snapshot) -> bool {
    a.key == b.key
        && match (&a.fetched, &b.fetched) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.same_as(b),
            (a, b) => a.is_none() && b.is_none(),
        }
}

fn object(snapshot: &Snapshot) -> Option<SavedObject> {
    Some(SavedObject {
        key: snapshot.key.clone(),
        fetched: snapshot.fetched.clone()?,
        confirmed: snapshot.confirmed?,
    })
}
