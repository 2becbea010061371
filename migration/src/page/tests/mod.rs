//! Pages from one memory to another and over a hostile wire.

mod memory;
pub(in crate::page) mod populations;
