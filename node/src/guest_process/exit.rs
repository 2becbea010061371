//! How a guest's end is told.

use godwit_proto::process::ExitReason;

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
