//! Moving a guest: the engine of `godwit-migration` over the guests of `godwit-vmm`.

mod acquaintances;
mod arrived;
pub mod fault;
mod fit;
mod ports;
mod source;
mod target;

pub use acquaintances::Acquaintances;
pub use arrived::Arrived;
pub use ports::{FollowingPort, GuestPort, LogPort, MemoryPort};
pub use source::{Leaver, forecast, move_guest};
pub(crate) use target::all;
pub use target::{Door, Here, Rest, receive_for_bench, receive_guest};

use godwit_proto::codes::{CodedError, ErrorCode};
use tokio::runtime::{Builder, Runtime};

/// The threads of one migration. They end with it, so that a guest that is not moved has none.
fn runtime() -> Result<Runtime, CodedError> {
    Builder::new_multi_thread()
        .thread_name("migration")
        .enable_all()
        .build()
        .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))
}
