//! Every ioctl of the program is in this module.

#![allow(unsafe_code)]

pub mod disk_ioctl;
pub mod tap_ioctl;
