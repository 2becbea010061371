//! Error codes: the reason of a failure that programs can tell apart, and users see as exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | the guest powered off, was reset or was stopped as asked |
//! | 1 | anything without a code of its own |
//! | 2 | the command line is wrong |
//! | 10 | the guest's configuration is invalid |
//! | 11 | the kernel image cannot be read or booted |
//! | 12 | the initial RAM disk cannot be read or does not fit |
//! | 13 | a disk is missing, unreadable, or locked by another guest |
//! | 14 | a tap interface is missing, taken, or not permitted |
//! | 15 | `/dev/kvm` is missing or not permitted |
//! | 16 | KVM lacks a capability that the guest needs |
//! | 17 | a snapshot is incomplete, damaged, or does not fit the machine |
//! | 18 | a snapshot is from a newer build |
//! | 19 | guest memory cannot be had or mapped |
//! | 20 | the guest crashed (triple fault) |
//! | 21 | KVM reported an internal error or an unknown exit |
//! | 22 | a disk failed while the guest ran |
//! | 23 | the peer broke the protocol or speaks no common version |
//! | 24 | the guest is not in a state in which this can be done |
//! | 25 | a snapshot cannot be written |
//! | 26 | a serial port or console cannot be connected |
//! | 40 | the target cannot take the guest; every reason is listed |
//! | 41 | the target lacks CPU features that the guest sees |
//! | 42 | the target cannot offer a device that the guest has |
//! | 43 | the migration was cancelled; the guest runs on at the source |
//! | 44 | the migration did not get done in its time; the guest runs on at the source |
//! | 45 | the link to the peer was lost; the guest runs on at the source |
//! | 46 | memory at the target is not that of the source |
//! | 47 | the guest is being migrated already, or to itself |
//! | 48 | the target may run the guest, but cannot be asked |
//! | 49 | the target took the guest over and never ran it |
//! | 50 | the source was lost with pages that the running guest still needs |
//! | 51 | the guest at the source is paused and cannot be resumed |
//! | 52 | it was a forecast; the guest was not to move |
//! | 60 | there is no such object |
//! | 61 | the name or id is taken |
//! | 62 | the object has changed since it was read |
//! | 63 | no node can take the guest; every reason is listed |
//! | 64 | the cluster has as many of these as it can hold |
//! | 65 | the request asks for something impossible |
//! | 66 | something still uses this |
//! | 67 | the guest belongs to a later epoch; this copy must not run |
//! | 68 | too many migrations are under way |
//! | 69 | the node is not ready |
//! | 70 | the idempotency key was used for another request |
//! | 71 | no leader that a quorum follows; nothing was changed, or it is not known |
//! | 72 | the token is expired, used, or not of this cluster |
//! | 73 | the node holds no live lease, so the guest may not run on it |
//!
//! A number keeps its meaning for ever.

use std::error::Error;

use rkyv::{Archive, Deserialize, Serialize};

/// The most causes that a [`CodedError`] lists.
const MAX_CAUSES: usize = 16;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Why something failed. The number is the exit code; see the [table](self).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// Every code, by rising number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code of this number; `None` when this build does not know it.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Anything without a code of its own.
    Other = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The guest's configuration is invalid.
    ConfigInvalid = 10,
    /// The kernel image cannot be read or booted.
    KernelImage = 11,
    /// The initial RAM disk cannot be read or does not fit.
    Initrd = 12,
    /// A disk is missing, unreadable, or locked by another guest.
    Disk = 13,
    /// A tap interface is missing, taken, or not permitted.
    Tap = 14,
    /// `/dev/kvm` is missing or not permitted.
    KvmUnavailable = 15,
    /// KVM lacks a capability that the guest needs.
    KvmCapability = 16,
    /// A snapshot is incomplete, damaged, or does not fit the machine.
    SnapshotInvalid = 17,
    /// A snapshot is from a newer build.
    SnapshotNewer = 18,
    /// Guest memory cannot be had or mapped.
    Memory = 19,
    /// The guest crashed (triple fault).
    GuestCrashed = 20,
    /// KVM reported an internal error or an unknown exit.
    KvmInternal = 21,
    /// A disk failed while the guest ran.
    DiskIo = 22,
    /// The peer broke the protocol or speaks no common version.
    PeerProtocol = 23,
    /// The guest is not in a state in which this can be done.
    WrongState = 24,
    /// A snapshot cannot be written.
    SnapshotWrite = 25,
    /// A serial port or console cannot be connected.
    Console = 26,
    /// The target cannot take the guest; every reason is listed.
    Refused = 40,
    /// The target lacks CPU features that the guest sees.
    CpuIncompatible = 41,
    /// The target cannot offer a device that the guest has.
    DeviceIncompatible = 42,
    /// The migration was cancelled; the guest runs on at the source.
    Cancelled = 43,
    /// The migration did not get done in its time; the guest runs on at the source.
    TimedOut = 44,
    /// The link to the peer was lost; the guest runs on at the source.
    LinkLost = 45,
    /// Memory at the target is not that of the source.
    MemoryDiffers = 46,
    /// The guest is being migrated already, or to itself.
    AlreadyMigrating = 47,
    /// The target may run the guest, but cannot be asked.
    Unconfirmed = 48,
    /// The target took the guest over and never ran it.
    NeverStarted = 49,
    /// The source was lost with pages that the running guest still needs.
    PagesLost = 50,
    /// The guest at the source is paused and cannot be resumed.
    SourceStuck = 51,
    /// It was a forecast; the guest was not to move.
    OnlyForecast = 52,
    /// There is no such object.
    NotFound = 60,
    /// The name or id is taken.
    AlreadyExists = 61,
    /// The object has changed since it was read.
    Conflict = 62,
    /// No node can take the guest; every reason is listed.
    Unschedulable = 63,
    /// The cluster has as many of these as it can hold.
    LimitReached = 64,
    /// The request asks for something impossible.
    RequestInvalid = 65,
    /// Something still uses this.
    InUse = 66,
    /// The guest belongs to a later epoch; this copy must not run.
    StaleEpoch = 67,
    /// Too many migrations are under way.
    MigrationLimit = 68,
    /// The node is not ready.
    NodeNotReady = 69,
    /// The idempotency key was used for another request.
    KeyReused = 70,
    /// No leader that a quorum follows; nothing was changed, or it is not known.
    NoQuorum = 71,
    /// The token is expired, used, or not of this cluster.
    TokenInvalid = 72,
    /// The node holds no live lease, so the guest may not run on it.
    NoLease = 73,
}

impl ErrorCode {
    /// The exit code of a program that ends because of this.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// A failure as told to a user or another process: what failed, why, and what to do about it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.one_line())]
pub struct CodedError {
    /// A number rather than the enum, so that a code of a newer build still arrives.
    number: u8,
    /// What failed.
    pub message: String,
    /// Why, nearest cause first; at most 16.
    pub causes: Vec<String>,
    /// What the user can do about it.
    pub fix: Option<String>,
}

impl CodedError {
    /// A failure without further causes.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            number: code as u8,
            message: message.into(),
            causes: Vec::new(),
            fix: None,
        }
    }

    /// A failure with the texts of `error` and its chain of sources.
    #[must_use]
    pub fn from_error(code: ErrorCode, error: &dyn Error) -> Self {
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        Self {
            causes: causes.take(MAX_CAUSES).map(ToString::to_string).collect(),
            ..Self::new(code, error.to_string())
        }
    }

    /// The same failure with advice for the user.
    #[must_use]
    pub fn with_fix(self, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..self
        }
    }

    /// The code; [`ErrorCode::Other`] when it is one of a newer build.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::from_number(self.number).unwrap_or(ErrorCode::Other)
    }

    /// The exit code, never 0, kept also when it is one of a newer build.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.number.max(ErrorCode::Other.exit_code())
    }

    /// Message, causes and fix in one line: control characters become spaces.
    fn one_line(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        if let Some(fix) = &self.fix {
            line.push_str(" (");
            line.push_str(fix);
            line.push(')');
        }
        line.replace(char::is_control, " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_in_the_table_of_the_module() {
        let table = include_str!("codes.rs");
        for code in ErrorCode::ALL {
            let row = format!("//! | {} |", code.exit_code());
            assert_eq!(table.matches(&row).count(), 1, "{code:?}");
            assert_eq!(ErrorCode::from_number(code.exit_code()), Some(*code));
        }
    }

    #[test]
    fn an_error_tells_message_causes_and_fix_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open disk \"root\"")]
        struct Open(#[source] std::io::Error);

        let source = std::io::Error::from_raw_os_error(2);
        let error = CodedError::from_error(ErrorCode::Disk, &Open(source)).with_fix("check\nit");
        assert_eq!(
            error.to_string(),
            "cannot open disk \"root\": No such file or directory (os error 2) (check it)"
        );
        assert_eq!(error.exit_code(), 13);
    }

    #[test]
    fn a_code_of_a_newer_build_keeps_its_number() {
        let error = CodedError {
            number: 200,
            ..CodedError::new(ErrorCode::Other, "new")
        };
        assert_eq!(error.code(), ErrorCode::Other);
        assert_eq!(error.exit_code(), 200);
        let error = CodedError { number: 0, ..error };
        assert_eq!(error.exit_code(), 1);
    }
}
