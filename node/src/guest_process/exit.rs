//! How a guest's end is told.

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::ExitReason;
use godwit_vmm::guest::GuestEvent;
use godwit_vmm::vcpu::{Crash, CrashCause};

/// What happened, in one line.
#[must_use]
pub fn describe(reason: &ExitReason) -> String {
    match reason {
        ExitReason::PowerOff => "guest powered off".into(),
        ExitReason::Reset => "guest reset itself".into(),
        ExitReason::Stopped => "guest stopped as asked".into(),
        ExitReason::TripleFault { vcpu, .. } => {
            format!(
                "guest crashed: triple fault on vcpu {vcpu} (look at its console and registers)"
            )
        }
        ExitReason::KvmError { vcpu, message, .. } => {
            format!("guest stopped by KVM on vcpu {vcpu}: {message} (look at its registers)")
        }
        ExitReason::Migrated => "guest moved; it runs elsewhere now".into(),
        ExitReason::Failed(error) => error.to_string(),
    }
    .replace(char::is_control, " ")
}

/// A short name for programs.
#[must_use]
pub fn name(reason: &ExitReason) -> &'static str {
    match reason {
        ExitReason::PowerOff => "power-off",
        ExitReason::Reset => "reset",
        ExitReason::Stopped => "stopped",
        ExitReason::TripleFault { .. } => "triple-fault",
        ExitReason::KvmError { .. } => "kvm-error",
        ExitReason::Migrated => "migrated",
        ExitReason::Failed(_) => "failed",
    }
}

/// The registers of the vCPU that ended the guest.
#[must_use]
pub fn registers(reason: &ExitReason) -> Option<&str> {
    match reason {
        ExitReason::TripleFault { registers, .. } | ExitReason::KvmError { registers, .. } => {
            Some(registers)
        }
        _ => None,
    }
}

/// The end that an event is.
pub(super) fn reason_of(event: GuestEvent) -> ExitReason {
    match event {
        GuestEvent::PowerOff => ExitReason::PowerOff,
        GuestEvent::Reset => ExitReason::Reset,
        GuestEvent::MemoryLost { cause } => ExitReason::Failed(
            CodedError::new(
                ErrorCode::SnapshotInvalid,
                format!("the guest's memory could not be restored: {cause}"),
            )
            .with_fix("restore another snapshot"),
        ),
        GuestEvent::Crashed(Crash {
            cause: CrashCause::TripleFault,
            vcpu,
            registers,
        }) => ExitReason::TripleFault { vcpu, registers },
        GuestEvent::Crashed(Crash {
            cause,
            vcpu,
            registers,
        }) => ExitReason::KvmError {
            vcpu,
            message: cause.to_string(),
            registers,
        },
    }
}
