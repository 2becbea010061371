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
    /// About how many of the pages that were collected since this was asked last each vCPU wrote, by its
    /// number; `None` when the log does not tell.
    fn written_by_vcpu(&self) -> Option<Vec<u64>> {
        None
    }
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

/// What happens while memory follows a guest.
#[derive(Debug)]
pub enum Arrival {
    /// Somebody waits for this page, which has not arrived. Told again when another one waits for it.
    Fault(u64),
    /// Who waits now may wait for ever.
    Failed(PortError),
}

/// Lets memory follow a guest that was built and has not run.
pub trait FollowingMemory: Send + Sync {
    /// Pages that can only be installed together, aligned; a power of two up to 512.
    fn unit_pages(&self) -> u64;
    /// Gives up what memory holds of `pages`; they will be among those of
    /// [`FollowingMemory::make_absent`].
    ///
    /// # Errors
    /// When the kernel refuses; the guest must not run then.
    fn give_up(&self, pages: &crate::PageSet) -> Result<(), PortError>;
    /// Makes whoever touches one of `pages` wait until it is installed, whatever it holds now.
    /// `tell` is called on a thread that waits for nothing else.
    ///
    /// # Errors
    /// When the kernel refuses; the guest must not run then.
    fn make_absent(
        &self,
        pages: &crate::PageSet,
        tell: Box<dyn FnMut(Arrival) + Send>,
    ) -> Result<std::sync::Arc<dyn ArrivingMemory>, PortError>;
}

/// Memory that follows a guest. Callable from several threads at once. What is there already keeps
/// its content: the guest may have written it. `arrived` is given the runs, (first page, pages), that
/// are there now and were not before: perhaps none, or more than were brought.
pub trait ArrivingMemory: Send + Sync {
    /// Installs whole pages from `first` on, and lets go who waits for them.
    ///
    /// # Errors
    /// When they are not in memory, or memory is exhausted.
    fn install(
        &self,
        first: u64,
        bytes: &[u8],
        arrived: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PortError>;
    /// As [`ArrivingMemory::install`], of zeros: they take no memory until they are touched.
    ///
    /// # Errors
    /// As [`ArrivingMemory::install`].
    fn install_zeros(
        &self,
        first: u64,
        count: u64,
        arrived: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PortError>;
}
