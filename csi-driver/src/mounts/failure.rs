use std::io::ErrorKind;

use keyward_core::{Code, Error, Result};

use crate::protocol::{Reason, Reply};

/// Passes a reply on, unless it is a refusal; `what` continues "cannot".
pub(super) fn refused(reply: Reply, what: &str) -> Result<Reply> {
    let Reply::Refused { reason, errno } = reply else { return Ok(reply) };
    let kernel = std::io::Error::from_raw_os_error(errno);
    let why = match reason {
        Reason::Kernel => kernel.to_string(),
        Reason::Malformed => "the mounter does not understand the request".to_owned(),
        Reason::Swap => {
            "swap is on and this kernel knows no tmpfs without swap, so that secrets could reach a disk; \
                         switch swap off, use a kernel from 6.4 on, or allow it with `files.allowSwap: true`"
                .to_owned()
        }
        Reason::Limit => "too many volumes wait to be mounted, or this one is too large".to_owned(),
        Reason::UnknownId => "this tmpfs was committed or discarded before".to_owned(),
        Reason::Taken => "something is mounted there already".to_owned(),
        Reason::Foreign => {
            "what is mounted there is not a volume of this driver; unmount it by hand on the node".to_owned()
        }
        Reason::NotMounted => "no volume of this driver is mounted there".to_owned(),
        Reason::NoVolume => "kubelet has not made the volume's directory".to_owned(),
        Reason::NotDirectory => {
            "a directory on the way to the target is a symbolic link or a file".to_owned()
        }
        Reason::NotOurFile => "it is not a regular file on a tmpfs of this driver".to_owned(),
        Reason::NoSocket => "no path is configured for it".to_owned(),
        Reason::OtherDriver => "kubelet made this volume for another driver".to_owned(),
        Reason::NoRecord => {
            "kubelet's record vol_data.json beside the target is missing or cannot be read, so that it is not \
             known for which driver the volume was made"
                .to_owned()
        }
        Reason::NotShared => format!("the node and the pod would not see it: {}", crate::mounter::PROPAGATION),
    };
    Err(Error::new(code(reason, &kernel), format!("cannot {what}: {why}")))
}

fn code(reason: Reason, kernel: &std::io::Error) -> Code {
    match reason {
        Reason::Kernel
            if matches!(
                kernel.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory
            ) =>
        {
            Code::NoSpace
        }
        Reason::Swap => Code::TmpfsRequired,
        Reason::Limit => Code::LimitExceeded,
        Reason::Malformed | Reason::UnknownId => Code::Internal,
        Reason::NoSocket => Code::ConfigInvalid,
        _ => Code::FileSystem,
    }
}
