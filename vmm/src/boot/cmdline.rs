//! The kernel command line.

use linux_loader::loader::load_cmdline;
use vm_memory::GuestAddress;

use super::error::BootError;
use crate::memory::GuestMemory;
use crate::memory::layout::boot;

/// A command line that every kernel can be given: printable ASCII, at most
/// [`boot::CMDLINE_MAX`] bytes with its terminating zero.
#[derive(Clone, Debug)]
pub struct Cmdline {
    inner: linux_loader::cmdline::Cmdline,
    len: usize,
}

impl Cmdline {
    /// Checks `text`. Blanks at both ends are dropped.
    ///
    /// # Errors
    /// [`BootError::CmdlineNotAscii`] or [`BootError::CmdlineTooLong`].
    pub fn new(text: &str) -> Result<Self, BootError> {
        if let Some((offset, byte)) = text
            .bytes()
            .enumerate()
            .find(|(_, byte)| !matches!(byte, b' '..=b'~'))
        {
            return Err(BootError::CmdlineNotAscii { byte, offset });
        }
        let len = text.trim().len();
        let too_long = BootError::CmdlineTooLong {
            len,
            max: boot::CMDLINE_MAX - 1,
        };
        if len >= boot::CMDLINE_MAX {
            return Err(too_long);
        }
        let mut inner = linux_loader::cmdline::Cmdline::new(boot::CMDLINE_MAX)
            .expect("the capacity is a constant above zero");
        inner.insert_str(text).map_err(|_| too_long)?;
        Ok(Self { inner, len })
    }

    /// Length in bytes without the terminating zero.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes it with its terminating zero for a kernel that takes `max` bytes.
    pub(super) fn write(&self, memory: &GuestMemory, max: usize) -> Result<(), BootError> {
        if self.len > max {
            return Err(BootError::CmdlineTooLong { len: self.len, max });
        }
        load_cmdline(memory, GuestAddress(boot::CMDLINE), &self.inner).map_err(BootError::Loader)
    }
}
