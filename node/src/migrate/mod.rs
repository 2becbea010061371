//! Moving a guest: the engine of `godwit-migration` over the guests of `godwit-vmm`.

pub mod fault;
mod fit;
mod ports;
mod source;
mod target;

pub use ports::{GuestPort, LogPort, MemoryPort};
pub use source::move_guest;
pub use target::{Here, receive_guest};

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use tokio::runtime::{Builder, Runtime};

/// How long either side waits for the other when the link is cut after the handover.
const RECOVERY_WINDOW: Duration = Duration::from_secs(10);

/// The threads of one migration. They end with it, so that a guest that is not moved has none.
fn runtime() -> Result<Runtime, CodedError> {
    Builder::new_multi_thread()
        .thread_name("migration")
        .enable_all()
        .build()
        .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))
}
