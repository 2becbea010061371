//! A whole sequence, as a snapshot's state file is read: raw, and with its checksums mended.

#![no_main]

use godwit_proto::record::RecordReader;
use godwit_proto::state::check_payload;
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    let Ok(reader) = RecordReader::new(bytes) else {
        return;
    };
    for record in reader.remaining() {
        let _ = check_payload(record);
    }
    let _ = reader.finish();
}

/// Writes magic and right checksums, and puts an end record behind the last whole record.
fn mend(bytes: &mut Vec<u8>) {
    if bytes.len() < 8 {
        return;
    }
    bytes[..8].copy_from_slice(b"GODWIT\x01\x00");
    let mut at = 8;
    let mut count: u32 = 0;
    while let Some(record) = bytes.get_mut(at..).filter(|rest| rest.len() >= 16) {
        let length = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
        if record[..2] == [1, 0] || length > record.len() - 16 {
            break;
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..16 + length]);
        record[12..16].copy_from_slice(&crc.to_le_bytes());
        at += 16 + length;
        count += 1;
    }
    bytes.truncate(at);
    let mut end = vec![1, 0, 1, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    let mut payload = count.to_le_bytes().to_vec();
    payload.extend(crc32c::crc32c(bytes).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&end), &payload);
    end.extend(crc.to_le_bytes());
    bytes.extend(end);
    bytes.extend(payload);
}

fuzz_target!(|input: &[u8]| {
    read(input);
    let mut mended = input.to_vec();
    mend(&mut mended);
    read(&mended);
});
