//! Moving a guest: the engine of `godwit-migration` over the guests of `godwit-vmm`.

mod ports;

pub use ports::{GuestPort, LogPort, MemoryPort};
