//! Save and restore of the event register; the others hold nothing.

use std::sync::atomic::Ordering;

use godwit_proto::state::power::GedState;

use super::AcpiPower;
use crate::memory::layout::ACPI_GED_POWER_BUTTON;

/// Why saved power events were refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PowerStateError {
    /// Bits that stand for nothing.
    #[error("saved power events {found:#04x} have bits that do not exist")]
    UnknownEvents {
        /// The saved value.
        found: u8,
    },
}

impl AcpiPower {
    /// What the guest has not read yet.
    pub fn save(&self) -> GedState {
        GedState {
            pending: self.pending.load(Ordering::Acquire),
        }
    }

    /// Takes over a saved state, as untrusted input; [`AcpiPower::resume`] then interrupts.
    ///
    /// # Errors
    /// [`PowerStateError`]; nothing is changed then.
    pub fn restore(&self, state: &GedState) -> Result<(), PowerStateError> {
        if state.pending & !ACPI_GED_POWER_BUTTON != 0 {
            return Err(PowerStateError::UnknownEvents {
                found: state.pending,
            });
        }
        self.pending.store(state.pending, Ordering::Release);
        Ok(())
    }
}
