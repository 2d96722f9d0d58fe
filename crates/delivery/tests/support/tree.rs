//! Trees for tests, and what a reader sees of one through the paths that applications use.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyward_core::SecretBytes;
use keyward_core::spec::FilePath;
use keyward_delivery::tree::{File, Tree};

/// A tree of files with owner and group of the process.
pub(crate) fn tree(files: &[(&str, &[u8], u32)]) -> Tree {
    let files = files.iter().map(|(path, content, mode)| {
        let content = SecretBytes::copy_from(content);
        (FilePath::parse(path).unwrap(), File { content, mode: *mode, uid: None, gid: None })
    });
    Tree { files: files.collect() }
}

/// Everything that can be opened below `root` by a path without an element of `..`: content and mode.
pub(crate) fn seen(root: &Path) -> BTreeMap<String, (Vec<u8>, u32)> {
    let mut files = BTreeMap::new();
    collect(root, "", &mut files);
    files
}

/// What [`seen`] gives when `tree` is there, all of it and nothing else.
pub(crate) fn expected(tree: &Tree) -> BTreeMap<String, (Vec<u8>, u32)> {
    let entry =
        |(path, file): (&FilePath, &File)| (path.to_string(), (file.content.expose().to_vec(), file.mode));
    tree.files.iter().map(entry).collect()
}

fn collect(directory: &Path, prefix: &str, files: &mut BTreeMap<String, (Vec<u8>, u32)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("..") {
            continue;
        }
        let path = format!("{prefix}{name}");
        match fs::metadata(entry.path()) {
            Ok(found) if found.is_dir() => collect(&entry.path(), &format!("{path}/"), files),
            Ok(found) => {
                let content = fs::read(entry.path()).unwrap();
                files.insert(path, (content, found.permissions().mode() & 0o7777));
            }
            // A link that dangles is no file.
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{path}"),
        }
    }
}
