use keyward_core::spec::{NotifyAction, ObjectSpec};
use keyward_core::{Code, Error, Result};

use super::user::User;
use crate::admission::pod::Pod;

/// Whether notifications can reach the application from our container.
///
/// # Errors
/// `KW_POD_UNSUPPORTED` with what to change.
pub(super) fn check(objects: &[ObjectSpec], pod: Pod<'_>, user: &User) -> Result<()> {
    for object in objects {
        let Some(notify) = &object.notify else { continue };
        let refuse = |why: String| Err(Error::new(Code::PodUnsupported, format!("{}: {why}", object.name)));
        match &notify.action {
            NotifyAction::Exec { .. } => {
                return refuse(
                    "notify.exec runs a command of the sidecar's image, which holds none; use notify.signal or \
                     notify.http"
                        .to_owned(),
                );
            }
            NotifyAction::Signal { process, .. } => {
                if pod.flag("/spec/shareProcessNamespace") != Some(true) {
                    return refuse(format!(
                        "notify.signal reaches {process} only in a pod with shareProcessNamespace: true"
                    ));
                }
                if !user.of_application {
                    return refuse(format!(
                        "notify.signal reaches {process} only as the same user, which is not root: state runAsUser \
                         for the pod"
                    ));
                }
            }
            NotifyAction::Http { .. } => {}
        }
    }
    Ok(())
}
