//! The PCI bus: one root, one bus, up to 31 single-function devices beside the host bridge.
//!
//! ```text
//! ports 0xcf8/0xcfc --+
//!                     +--> PciRoot --> slot --> PciFunction: configuration space
//! ECAM ---------------+       |
//! BAR window ----------------------> the function whose BAR covers the address now
//! ```
//!
//! The BAR window is on the MMIO bus once, as a whole, and an access is given to the function whose
//! BAR covers it at that moment; so a guest may move BARs (inside the window) as it likes. There
//! are no bridges, no hot plug and no legacy (INTx) interrupts: a driver needs MSI-X.

mod config;
mod host_bridge;
mod msix;
mod root;

pub use config::{
    BAR0, COMMAND_BUS_MASTER, COMMAND_MEMORY, CONFIG_SIZE, ConfigSpace, INTERRUPT_LINE, Identity,
};
pub use host_bridge::HostBridge;
pub use msix::{
    CAPABILITY_ID as MSIX_CAPABILITY_ID, CONTROL_ENABLE as MSIX_ENABLE,
    CONTROL_FUNCTION_MASK as MSIX_FUNCTION_MASK, ENTRY_SIZE as MSIX_ENTRY_SIZE, Entry as MsixEntry,
    Msix, Vector,
};
pub use root::{PciError, PciRoot, SLOTS, bar_address};

use std::ops::Range;

use godwit_proto::state::pci::PciDeviceState;

use crate::interrupt::InterruptError;

/// One PCI function. Accesses come from vCPU threads, several at once.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space; `offset + data.len()` may go beyond 256, what is there is zero.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// Writes configuration space.
    fn write_config(&self, offset: usize, data: &[u8]);
    /// The addresses that BAR 0 answers now; `None` without a BAR or with memory decoding off.
    fn decoded(&self) -> Option<Range<u64>> {
        None
    }
    /// Reads at `offset` in BAR 0.
    fn read_bar(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    /// Writes at `offset` in BAR 0.
    fn write_bar(&self, _offset: u64, _data: &[u8]) {}

    /// Tells the function to stop working, without waiting for it.
    fn request_quiesce(&self) {}
    /// Stops all work of the function until [`PciFunction::resume`]; waits for it.
    fn quiesce(&self) {}
    /// Goes on after [`PciFunction::quiesce`] or [`PciFunction::restore`].
    fn resume(&self) {}
    /// Back to the state after power-on, as when the machine is reset. Paused stays paused.
    fn reset(&self) {}
    /// Tells the driver that the device configuration changed; nothing without a working driver.
    ///
    /// # Errors
    /// [`InterruptError`] when the interrupt cannot be raised.
    fn notify_config(&self) -> Result<(), InterruptError> {
        Ok(())
    }
    /// The function's state; `None` when it has none. Only after [`PciFunction::quiesce`].
    ///
    /// # Errors
    /// [`StateError::Running`] when the function was not quiesced.
    fn save(&self) -> Result<Option<PciDeviceState>, StateError> {
        Ok(None)
    }
    /// Takes over a saved state, as untrusted input, and stays quiesced.
    ///
    /// # Errors
    /// [`StateError`] names what is wrong; the function is unchanged then.
    fn restore(&self, _state: &PciDeviceState) -> Result<(), StateError> {
        Err(StateError::Stateless)
    }
}

/// Why the state of a function could not be saved or was refused.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The function works; its state changes under the reader's eyes.
    #[error("the device is not paused")]
    Running,
    /// There is a record for a function that has no state.
    #[error("this function has no state to restore")]
    Stateless,
    /// A field of the record has a value that cannot be taken over.
    #[error("saved field {field} is {found:#x}, but {need}")]
    Field {
        /// The field of [`PciDeviceState`].
        field: &'static str,
        /// Its value, or its length.
        found: u64,
        /// What it must be.
        need: String,
    },
    /// A saved queue cannot be used.
    #[error("saved queue {queue} cannot be used")]
    Queue {
        /// Its index.
        queue: u16,
        /// What is wrong.
        #[source]
        source: crate::devices::virtio::transport::QueueError,
    },
    /// The device refused its own record.
    #[error(transparent)]
    Device(#[from] crate::devices::virtio::RestoreError),
}
