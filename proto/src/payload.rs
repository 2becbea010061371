//! The bytes inside records and messages: rkyv archives (little-endian, unaligned, 32-bit relative
//! pointers), checked before anything is read from them.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Deserialize, Serialize};

/// Archives `value`.
///
/// # Errors
/// When the archive exceeds what a 32-bit relative pointer spans (2 GiB).
pub(crate) fn to_bytes<T>(value: &T) -> Result<Vec<u8>, rancor::Error>
where
    T: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Error>>,
{
    rkyv::api::high::to_bytes_in(value, Vec::new())
}

/// Checks the whole archive, then builds the value.
///
/// The crate archives unaligned, so `bytes` may start anywhere.
pub(crate) fn from_bytes<T>(bytes: &[u8]) -> Result<T, rancor::Error>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    const {
        assert!(
            align_of::<T::Archived>() == 1,
            "rkyv must archive unaligned"
        );
    };
    rkyv::api::high::from_bytes::<T, rancor::Error>(bytes)
}
