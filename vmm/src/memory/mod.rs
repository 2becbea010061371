//! Guest memory: where it lies, what backs it, which pages changed, how it fills on demand.

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

mod absent;
pub mod dirty;
pub mod image;
pub mod io_ring;
pub mod iovec;
pub mod layout;
pub mod lazy;
pub mod missing;
pub mod post_copy;
pub mod ram;

pub use dirty::{DirtyLog, DirtyPages};
pub use ram::{GuestRam, HugePages, MemoryError};

/// The guest's memory as devices and the loader see it. Every write through it marks the page in
/// the region's bitmap, which is how writes by devices enter the dirty log.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;
