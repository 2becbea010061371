//! What a guest must offer to be moved. `godwit-node` implements these over the VMM, the simulation
//! over a fake guest; the engine knows neither.
//!
//! Pages are 4 KiB and numbered from the start of RAM with holes left out, so a number is also a
//! position in the guest's memory file.

use std::error::Error;

/// Guest page size, bytes.
pub const PAGE_BYTES: usize = 4096;

/// Why a guest did not do what the engine asked; the text is for people.
pub type PortError = Box<dyn Error + Send + Sync>;

/// The memory of a guest. Callable from several threads at once.
pub trait GuestMemory: Send + Sync {
    /// How many pages there are.
    fn pages(&self) -> u64;
    /// Copies whole pages from `first` on into `bytes`, whose length is a multiple of
    /// [`PAGE_BYTES`]. The guest may write them at the same time; each byte is then old or new.
    ///
    /// # Errors
    /// When the pages are not in memory, or memory cannot be read.
    fn read(&self, first: u64, bytes: &mut [u8]) -> Result<(), PortError>;
    /// Writes whole pages from `first` on.
    ///
    /// # Errors
    /// When the pages are not in memory, or memory is exhausted.
    fn write(&self, first: u64, bytes: &[u8]) -> Result<(), PortError>;
    /// Makes `count` pages from `first` on zero. Costs nothing where they have never been touched.
    ///
    /// # Errors
    /// When the pages are not in memory.
    fn write_zeros(&self, first: u64, count: u64) -> Result<(), PortError>;
    /// Whether `count` pages from `first` on have never been touched and so are zero. A guess of
    /// `false` is always right.
    fn is_untouched(&self, first: u64, count: u64) -> bool;
}

/// The log of pages that the guest and its devices write.
pub trait DirtyLog: Send + Sync {
    /// Starts logging.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn start(&self) -> Result<(), PortError>;
    /// Adds to `pages` all that were written since they were last armed.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn collect(&self, pages: &mut crate::PageSet) -> Result<(), PortError>;
    /// Lets writes to `pages` be seen again; called after they were collected and before they are
    /// read.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn arm(&self, pages: &crate::PageSet) -> Result<(), PortError>;
    /// Stops logging.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn stop(&self) -> Result<(), PortError>;
}

/// A guest that runs and can be stopped.
pub trait Pausable: Send + Sync {
    /// Stops vCPUs and devices; nothing writes memory afterwards.
    ///
    /// # Errors
    /// When a vCPU does not answer; the guest is then running.
    fn pause(&self) -> Result<(), PortError>;
    /// Lets it go on.
    ///
    /// # Errors
    /// When it cannot.
    fn resume(&self) -> Result<(), PortError>;
    /// The state without memory, of a paused guest.
    ///
    /// # Errors
    /// When something cannot be saved.
    fn save(&self) -> Result<Vec<u8>, PortError>;
    /// Takes over the state of a guest that was built the same and has not run.
    ///
    /// # Errors
    /// When the state does not fit.
    fn restore(&self, state: &[u8]) -> Result<(), PortError>;
    /// Gives up what only one running guest can have, of a paused guest that is to run elsewhere now;
    /// [`Pausable::resume`] takes it back. Waits for nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn relinquish(&self) -> Result<(), PortError>;
}
