//! What the victim does and what it starts from: shared by victim and test, so that both mean the same trees.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::spec::FilePath;
use keyward_core::{
    Collection, Content, FetchRequest, Fetched, IdentityKey, ObjectKey, ObjectRef, Parts, Result,
    SecretBytes, VaultHost, Version,
};
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::saved::{self, SavedObject};
use keyward_delivery::tmpfs::{Mode, Options, Prepared, ensure_room, prepare};
use keyward_delivery::tree::{File, Tree};

/// One walk through the code that a kill may interrupt anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// First start: tmpfs (found, not mounted), first tree.
    Start,
    /// The same with a mount of our own.
    StartMounting,
    /// A restart that finds a tree and swaps in another: a name comes, one goes, one becomes a directory.
    Swap,
    /// Two swaps in one life, with the sweeps of a timer between them.
    Rotate,
    /// A restart after a crash: half a generation, a forgotten `..data_tmp`, a dangling link.
    Recover,
    /// The last snapshot is kept, over an earlier one.
    Save,
}

impl Scenario {
    pub(crate) const ALL: [Self; 6] =
        [Self::Start, Self::StartMounting, Self::Swap, Self::Rotate, Self::Recover, Self::Save];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::StartMounting => "start-mounting",
            Self::Swap => "swap",
            Self::Rotate => "rotate",
            Self::Recover => "recover",
            Self::Save => "save",
        }
    }

    pub(crate) fn mode(self) -> Mode {
        if self == Self::StartMounting { Mode::Mount } else { Mode::Require }
    }

    /// Trees by number that a reader may see when the victim was killed; `None` is "nothing yet".
    pub(crate) fn allowed(self) -> &'static [Option<u8>] {
        match self {
            Self::Start | Self::StartMounting => &[None, Some(1)],
            Self::Swap | Self::Recover => &[Some(1), Some(2)],
            Self::Rotate => &[Some(1), Some(2), Some(3)],
            Self::Save => &[],
        }
    }

    /// The tree that a reader sees when all went well.
    pub(crate) fn last(self) -> u8 {
        match self {
            Self::Start | Self::StartMounting => 1,
            Self::Swap | Self::Recover | Self::Save => 2,
            Self::Rotate => 3,
        }
    }

    /// The walk itself.
    pub(crate) fn run(self, path: &Path) -> Result<()> {
        if self == Self::Save {
            let directory = saved::open(path)?;
            saved::save(&directory, saved::ONLY, &snapshot(2))?;
            return saved::load(&directory, saved::ONLY, &[identity()]).map(|_| ());
        }
        let mut writer = start(path, self.mode())?;
        for number in self.allowed().iter().flatten().filter(|number| **number > 1 || self.last() == 1) {
            writer.commit(&numbered(*number))?;
            if self == Self::Rotate {
                writer.sweep_old();
                writer.sweep_old();
            }
        }
        Ok(())
    }
}

/// What every start does.
pub(crate) fn start(path: &Path, mode: Mode) -> Result<AtomicDirectory> {
    let options = Options { allow_swap: true, ..Options::default() };
    let Prepared { directory, .. } = prepare(path, mode, 64 << 10, &options)?;
    ensure_room(&directory, 8 << 10, 4)?;
    AtomicDirectory::open(directory)
}

/// Tree 1, 2 or 3: `stays` changes, `turns` is a file and then a directory, one name comes and one goes.
pub(crate) fn numbered(number: u8) -> Tree {
    let content = [b'0' + number; 300];
    let paths: &[(&str, u32)] = match number {
        1 => &[("goes/x", 0o400), ("stays", 0o444), ("turns", 0o640)],
        2 => &[("comes", 0o444), ("stays", 0o444), ("turns/into", 0o604)],
        _ => &[("goes/x", 0o444), ("stays", 0o440)],
    };
    let files: BTreeMap<_, _> = paths
        .iter()
        .filter_map(|(path, mode)| {
            let content = SecretBytes::copy_from(&content);
            Some((FilePath::parse(path).ok()?, File { content, mode: *mode, uid: None, gid: None }))
        })
        .collect();
    Tree { files }
}

pub(crate) fn identity() -> Arc<IdentityKey> {
    let [authority, tenant, client] = ["https://login.example", "t", "c"].map(str::to_owned);
    Arc::new(IdentityKey { method: "workload-identity", authority, tenant, client })
}

/// The snapshot to keep, with `number` objects.
pub(crate) fn snapshot(number: u8) -> Vec<SavedObject> {
    let object = |index: u8| {
        let host = VaultHost::parse("shop.vault.azure.net").ok()?;
        let object = ObjectRef::new(host, Collection::Secrets, &format!("s{index}"), None).ok()?;
        let fetched = Fetched {
            object: object.clone(),
            version: Version::parse(&"0".repeat(32)).ok()?,
            content: Content::Secret { value: SecretBytes::copy_from(&[number; 300]), bundle: None },
            content_type: None,
            created: None,
            updated: None,
            expires: None,
            not_before: None,
            request_id: None,
        };
        let request = FetchRequest { object, parts: Parts::Object };
        let key = ObjectKey { identity: identity(), request };
        Some(SavedObject { key, fetched: Arc::new(fetched), confirmed: Duration::from_secs(1) })
    };
    (0..number).filter_map(object).collect()
}
