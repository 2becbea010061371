//! Decisions without hardware: no `unsafe`, no I/O, no clock. The guest uses
//! it, and the host's unit tests include the same files.
#![forbid(unsafe_code)]

pub(crate) mod acpi;
pub(crate) mod block;
pub(crate) mod fill;
pub(crate) mod histogram;
pub(crate) mod options;
pub(crate) mod packet;
pub(crate) mod page;
pub(crate) mod pattern;
pub(crate) mod pvclock;
pub(crate) mod random;
pub(crate) mod rate;
pub(crate) mod real;
pub(crate) mod registers;
pub(crate) mod ring;
pub(crate) mod span;
