//! Every record's archive, past header and checksum. The input begins with kind and version, as a
//! golden file of a record does; that and the rest of its header are not archive.

#![no_main]

use godwit_proto::record::{HEADER_BYTES, Kind, RawRecord};
use godwit_proto::state::check_payload;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[k0, k1, v0, v1, ..], payload)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let number = u16::from_le_bytes([k0, k1]);
    let version = u16::from_le_bytes([v0, v1]);
    // An unknown number is spread over the known kinds instead of being wasted.
    let kind = Kind::from_number(number)
        .unwrap_or_else(|| Kind::ALL[usize::from(number) % Kind::ALL.len()]);
    let _ = check_payload(&RawRecord {
        kind,
        version,
        mandatory: true,
        payload,
    });
});
