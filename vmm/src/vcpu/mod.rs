//! vCPU threads: running, stopping, saving.
//!
//! One thread owns each vCPU and is told what to do through a channel; nobody else touches it.
//!
//! ```text
//!            Run                        guest stops (power-off, reset, crash)
//!  Paused ---------> Running ------------------------------------------------.
//!     ^                 |                                                     |
//!     '-----------------'                                                     v
//!           Pause                                                   Paused, event reported
//! ```
//!
//! Whoever wants a running vCPU's attention sends the request first and kicks after: the thread
//! looks into the channel each time the guest is left. An idle vCPU sleeps inside `KVM_RUN`, a paused
//! one in the channel; nothing spins.

mod exit;
mod thread;
mod throttle;

pub use exit::{Crash, CrashCause, VcpuEvent};
pub use thread::{VcpuError, VcpuHandle, VcpuShared};
pub use throttle::{MAX_PERCENT, Throttle};
