//! The links that applications open: `name -> ..data/name`, one for each first element of a path.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use keyward_core::Result;
use rustix::io::Errno;

use super::{DATA, clash};
use crate::beneath;
use crate::tree::Tree;

/// First elements of the paths of `tree`.
pub(super) fn names(tree: &Tree) -> BTreeSet<String> {
    tree.files.keys().filter_map(|path| path.elements().next()).map(str::to_owned).collect()
}

/// Makes the links that are missing and adds them to `made`. Anything else that has one of the names is an error, or
/// goes when everything is `ours`.
pub(super) fn create(
    directory: &OwnedFd,
    names: &BTreeSet<String>,
    ours: bool,
    made: &mut Vec<String>,
) -> Result<()> {
    for name in names {
        if is_ours(directory, name).map_err(|errno| failed(name, errno))? {
            continue;
        }
        match beneath::link(directory, name, &target(name)) {
            Ok(()) => made.push(name.clone()),
            Err(Errno::EXIST) if ours => {
                beneath::remove(directory, name)
                    .and_then(|()| beneath::link(directory, name, &target(name)))
                    .map_err(|errno| failed(name, errno))?;
                made.push(name.clone());
            }
            Err(Errno::EXIST) => return Err(clash(directory, name)),
            Err(errno) => return Err(failed(name, errno)),
        }
    }
    Ok(())
}

/// Removes the link `name` if it is ours.
pub(super) fn remove(directory: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    if is_ours(directory, name)? { beneath::remove(directory, name) } else { Ok(()) }
}

fn is_ours(directory: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
    Ok(beneath::link_target(directory, name)?.is_some_and(|found| found == target(name)))
}

fn target(name: &str) -> String {
    format!("{DATA}/{name}")
}

fn failed(name: &str, errno: Errno) -> keyward_core::Error {
    beneath::failure(&format!("link {name}"), errno)
}
