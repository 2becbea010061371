//! Ids of what is made, drawn by who asks for it to be made.

use godwit_proto::codes::{CodedError, ErrorCode};
use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes from the kernel.
pub(super) fn bytes<const LENGTH: usize>() -> Result<[u8; LENGTH], CodedError> {
    let mut bytes = [0; LENGTH];
    // The kernel gives up to 256 bytes in one piece (getrandom(2)).
    const { assert!(LENGTH <= 256) };
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(length) if length == LENGTH => Ok(bytes),
        Ok(_) => Err(CodedError::new(
            ErrorCode::Other,
            "the kernel gave too few random bytes",
        )),
        Err(error) => Err(CodedError::from_error(ErrorCode::Other, &error)),
    }
}

/// The bytes of a random id (RFC 9562, version 4).
pub(super) fn id() -> Result<[u8; 16], CodedError> {
    let mut id = bytes::<16>()?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(id)
}
