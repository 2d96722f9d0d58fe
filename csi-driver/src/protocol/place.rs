use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest;
use keyward_core::{Code, Error, Result};

use super::bytes::{Reader, Writer};

/// Longest UID of a pod. Kubernetes makes UUIDs (36), kubelet hashes (32) for static pods.
const POD_UID: usize = 64;
/// Longest name of a volume in a pod: a DNS label.
const VOLUME: usize = 63;
/// `csi-` and a SHA-256 in hexadecimal.
const VOLUME_ID: usize = 68;

/// Where kubelet wants an inline volume: pod, volume, and the id that kubelet derives from both. A value of this type
/// holds no name that could lead anywhere else, and its id belongs to its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pod_uid: String,
    volume: String,
    volume_id: String,
}

impl Place {
    /// The place of a pod's volume.
    ///
    /// # Errors
    /// `KW_REQUEST_INVALID` when one is not what Kubernetes would call a pod's UID or a volume's name.
    pub fn new(pod_uid: &str, volume: &str) -> Result<Self> {
        Self::checked(pod_uid, volume).ok_or_else(|| {
            Error::new(
                Code::RequestInvalid,
                "the pod's UID or the volume's name has characters or a length that Kubernetes never gives it",
            )
        })
    }

    /// The place that `target_path` of a CSI call names, checked against the call's `volume_id`.
    ///
    /// # Errors
    /// `KW_REQUEST_INVALID` when the path is not kubelet's path of an inline volume below `kubelet_dir`, or the id is
    /// not the one of that volume.
    pub fn from_target(kubelet_dir: &Path, target_path: &str, volume_id: &str) -> Result<Self> {
        let place = Self::parse_target(kubelet_dir, target_path).ok_or_else(|| {
            Error::new(
                Code::RequestInvalid,
                format!(
                    "the target path is not {}/pods/<pod UID>/volumes/kubernetes.io~csi/<volume>/mount; if kubelet runs \
                     with another --root-dir, give it to the driver as --kubelet-dir",
                    kubelet_dir.display()
                ),
            )
        })?;
        if place.volume_id != volume_id {
            return Err(Error::new(
                Code::RequestInvalid,
                "the volume id is not the one that kubelet gives to the volume at the target path",
            ));
        }
        Ok(place)
    }

    /// The pod's UID.
    #[must_use]
    pub fn pod_uid(&self) -> &str {
        &self.pod_uid
    }

    /// The volume's name in the pod.
    #[must_use]
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// `csi-` and the SHA-256 of UID and name, in hexadecimal.
    #[must_use]
    pub fn volume_id(&self) -> &str {
        &self.volume_id
    }

    /// Where kubelet wants the volume.
    #[must_use]
    pub fn target(&self, kubelet_dir: &Path) -> PathBuf {
        kubelet_dir
            .join("pods")
            .join(&self.pod_uid)
            .join("volumes/kubernetes.io~csi")
            .join(&self.volume)
            .join("mount")
    }

    /// Reads what follows the `pods` directory in a target path.
    pub(crate) fn from_below_pods(path: &Path) -> Option<Self> {
        let mut names = path.components().map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        let mut next = || names.next().flatten();
        let pod_uid = next()?;
        let fixed = (next()?, next()?);
        let volume = next()?;
        let last = next()?;
        if fixed != ("volumes", "kubernetes.io~csi") || last != "mount" || names.next().is_some() {
            return None;
        }
        Self::checked(pod_uid, volume)
    }

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        self.encode_names(to);
        to.text(&self.volume_id, VOLUME_ID);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let place = Self::decode_names(from)?;
        (place.volume_id == from.text(VOLUME_ID)?).then_some(place)
    }

    /// Without the id, which the reader derives.
    pub(super) fn encode_names(&self, to: &mut Writer<'_>) {
        to.text(&self.pod_uid, POD_UID);
        to.text(&self.volume, VOLUME);
    }

    pub(super) fn decode_names(from: &mut Reader<'_>) -> Option<Self> {
        Self::checked(from.text(POD_UID)?, from.text(VOLUME)?)
    }

    fn parse_target(kubelet_dir: &Path, target_path: &str) -> Option<Self> {
        Self::from_below_pods(
            Path::new(target_path).strip_prefix(kubelet_dir).ok()?.strip_prefix("pods").ok()?,
        )
    }

    fn checked(pod_uid: &str, volume: &str) -> Option<Self> {
        let plain = |text: &str, longest: usize, letter: fn(&u8) -> bool| {
            (1..=longest).contains(&text.len())
                && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || letter(&byte))
        };
        let valid =
            plain(pod_uid, POD_UID, u8::is_ascii_alphabetic) && plain(volume, VOLUME, u8::is_ascii_lowercase);
        valid.then(|| Self {
            pod_uid: pod_uid.to_owned(),
            volume: volume.to_owned(),
            volume_id: volume_id(pod_uid, volume),
        })
    }
}

fn volume_id(pod_uid: &str, volume: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(pod_uid.as_bytes());
    hash.update(volume.as_bytes());
    format!("csi-{}", hex::encode(hash.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f3c9a52-7a55-4d1c-b5a5-5a4b1b0c7c11";

    fn target(rest: &str) -> String {
        format!("/var/lib/kubelet/pods/{rest}")
    }

    #[test]
    fn a_target_path_of_kubelet_gives_pod_and_volume_and_back() {
        let kubelet = Path::new("/var/lib/kubelet");
        let place = Place::new(UID, "secrets").unwrap();
        let path = place.target(kubelet);
        assert_eq!(path.to_str().unwrap(), target(&format!("{UID}/volumes/kubernetes.io~csi/secrets/mount")));
        assert_eq!(Place::from_target(kubelet, path.to_str().unwrap(), place.volume_id()).unwrap(), place);
        assert_eq!(place.volume_id().len(), VOLUME_ID);
    }

    #[test]
    fn the_id_is_the_hash_of_uid_and_name_without_anything_between() {
        let place = Place::new("a", "bc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(place.volume_id(), format!("csi-{abc}"));
    }

    #[test]
    fn a_target_path_that_kubelet_would_not_send_is_refused() {
        let kubelet = Path::new("/var/lib/kubelet");
        let id = Place::new(UID, "secrets").unwrap();
        for path in [
            target(&format!("{UID}/volumes/kubernetes.io~csi/secrets")),
            target(&format!("{UID}/volumes/kubernetes.io~csi/secrets/mount/more")),
            target(&format!("{UID}/volumes/kubernetes.io~csi/../mount")),
            target(&format!("{UID}/volumes/kubernetes.io~csi/../secrets/mount")),
            target(&format!("../pods/{UID}/volumes/kubernetes.io~csi/secrets/mount")),
            target(&format!("{UID}/volumes/kubernetes.io~secret/secrets/mount")),
            target("a.b/volumes/kubernetes.io~csi/secrets/mount"),
            format!("/var/lib/kubelet2/pods/{UID}/volumes/kubernetes.io~csi/secrets/mount"),
            format!("pods/{UID}/volumes/kubernetes.io~csi/secrets/mount"),
            String::new(),
        ] {
            let error = Place::from_target(kubelet, &path, id.volume_id()).unwrap_err();
            assert_eq!(error.code(), Code::RequestInvalid, "{path}");
        }
        let path = id.target(kubelet);
        let other = Place::new(UID, "other").unwrap();
        assert!(Place::from_target(kubelet, path.to_str().unwrap(), other.volume_id()).is_err());
    }

    #[test]
    fn names_that_are_empty_too_long_or_strange_are_refused() {
        for (uid, volume) in
            [("", "v"), ("u", ""), ("..", "v"), ("u", ".."), ("u/u", "v"), ("u", "V"), ("u", "v\0")]
        {
            assert!(Place::new(uid, volume).is_err(), "{uid:?} {volume:?}");
        }
        assert!(Place::new(&"u".repeat(64), &"v".repeat(63)).is_ok());
        assert!(Place::new(&"u".repeat(65), "v").is_err());
        assert!(Place::new("u", &"v".repeat(64)).is_err());
    }
}
