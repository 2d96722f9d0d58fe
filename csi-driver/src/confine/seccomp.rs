//! Which system calls a process keeps: everything that is not listed fails with EPERM.

mod broker;
mod probe;

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use keyward_core::{Code, Error, Result};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

pub(super) use broker::filter as broker;
pub(super) use probe::filter as probe;

/// Memory that is never code: of `mmap` and `mprotect`.
pub(crate) const NOT_EXECUTABLE: Allow = Allow::Bits(2, libc::PROT_EXEC as u64, 0);

/// What has to hold of one argument of a call; each is the low 32 bits, which is all that these calls look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Allow {
    /// The argument at this index is this.
    Equal(u8, u64),
    /// The argument at this index is anything but this.
    Not(u8, u64),
    /// The argument at this index is less than this.
    Below(u8, u64),
    /// Of the bits in the mask, exactly these are set: index, mask, bits.
    Bits(u8, u64, u64),
}

/// A list of system calls.
#[derive(Default)]
pub(crate) struct Filter {
    calls: BTreeMap<i64, Vec<Vec<Allow>>>,
}

impl Filter {
    /// Adds calls with any arguments.
    pub(crate) fn any(mut self, calls: &[i64]) -> Self {
        self.calls.extend(calls.iter().map(|call| (*call, Vec::new())));
        self
    }

    /// Adds a call whose arguments must meet all of `conditions`; added again, either will do.
    pub(crate) fn when(mut self, call: i64, conditions: &[Allow]) -> Self {
        self.calls.entry(call).or_default().push(conditions.to_vec());
        self
    }

    /// Lets descriptors be passed on over `channel` and no other socket. A filter does not see what a message carries,
    /// only the number of its socket: so nothing may take that number's place, neither `close` nor `dup2`.
    pub(crate) fn descriptors_over(self, channel: RawFd) -> Self {
        let channel = u64::from(channel.cast_unsigned());
        self.when(libc::SYS_sendmsg, &[Allow::Equal(0, channel)])
            .when(libc::SYS_close, &[Allow::Not(0, channel)])
    }

    /// `fcntl` without the commands that make the kernel send signals: those reach any process that the own user may
    /// signal, and user 0 needs no capability for that.
    pub(crate) fn descriptor_flags(mut self) -> Self {
        for command in [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL] {
            self = self.when(libc::SYS_fcntl, &[Allow::Equal(1, command as u64)]);
        }
        let quiet = Allow::Bits(2, libc::O_ASYNC as u64, 0);
        self.when(libc::SYS_fcntl, &[Allow::Equal(1, libc::F_SETFL as u64), quiet])
    }

    /// The numbers of all calls that are allowed with some arguments.
    pub(crate) fn calls(&self) -> Vec<i64> {
        self.calls.keys().copied().collect()
    }

    /// Puts it into force for this process, for good.
    pub(crate) fn install(self) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(Code::Internal, "the system calls cannot be limited").detail(error)
        };
        // The wrapper of `clone` falls back to the old call, whose flags a filter can see, only on ENOSYS.
        let mut newer = BTreeMap::new();
        newer.insert(libc::SYS_clone3, Vec::new());
        let no_clone3 =
            program(newer, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))
                .map_err(|error| failed(&error))?;
        let mut rules = BTreeMap::new();
        for (call, alternatives) in self.any(&[libc::SYS_clone3]).calls {
            let chain: std::result::Result<Vec<_>, _> =
                alternatives.iter().map(|conditions| rule(conditions)).collect();
            rules.insert(call, chain.map_err(|error| failed(&error))?);
        }
        let allowed = program(rules, SeccompAction::Errno(libc::EPERM.cast_unsigned()), SeccompAction::Allow)
            .map_err(|error| failed(&error))?;
        apply_filter(&no_clone3).map_err(|error| failed(&error))?;
        apply_filter(&allowed).map_err(|error| failed(&error))
    }
}

fn rule(conditions: &[Allow]) -> std::result::Result<SeccompRule, BackendError> {
    let conditions: std::result::Result<Vec<_>, _> = conditions
        .iter()
        .map(|condition| {
            let (index, operator, value) = match *condition {
                Allow::Equal(index, value) => (index, SeccompCmpOp::Eq, value),
                Allow::Not(index, value) => (index, SeccompCmpOp::Ne, value),
                Allow::Below(index, value) => (index, SeccompCmpOp::Lt, value),
                Allow::Bits(index, mask, bits) => (index, SeccompCmpOp::MaskedEq(mask), bits),
            };
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
        })
        .collect();
    SeccompRule::new(conditions?)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> std::result::Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?.try_into()
}
