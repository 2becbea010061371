//! Frames between the voters of a measurement, and between them and its clients: four bytes of
//! length, eight of id, one of kind, little-endian, then the payload. A reply has its request's id.

use std::io::{self, Read, Write};

/// An encoded entry to propose.
pub(super) const PROPOSE: u8 = 1;
/// A node's id and its Raft message.
pub(super) const RAFT: u8 = 2;
/// The address of the voter that begins the cluster.
pub(super) const BEGIN: u8 = 3;
/// A node's id and its address.
pub(super) const LEARN: u8 = 4;
/// The ids of those that are to vote.
pub(super) const VOTERS: u8 = 5;
/// What the voter is: see [`super::voters::Status`].
pub(super) const STATUS: u8 = 6;
/// A reply: it was done.
pub(super) const DONE: u8 = 0x80;
/// A reply: it was not, and why.
pub(super) const FAILED: u8 = 0x81;

/// Bytes before a payload.
const HEADER_BYTES: usize = 13;
/// The longest payload.
const MAX_PAYLOAD_BYTES: usize = 8 << 20;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Adds a frame to `out`.
pub(super) fn put(id: u64, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len() + HEADER_BYTES - 4).expect("a frame is short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

/// Takes the first whole frame off `input`.
pub(super) fn take(input: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, id @ .., kind] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if !(HEADER_BYTES - 4..=MAX_PAYLOAD_BYTES).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if input.len() < length + 4 {
        return Ok(None);
    }
    let frame = Frame {
        id: u64::from_le_bytes(id),
        kind,
        payload: input[HEADER_BYTES..length + 4].to_vec(),
    };
    input.drain(..length + 4);
    Ok(Some(frame))
}

/// Asks over `stream`, and waits for the reply.
pub(super) fn ask(
    stream: &mut (impl Read + Write),
    kind: u8,
    payload: &[u8],
) -> io::Result<Result<Vec<u8>, String>> {
    let mut bytes = Vec::new();
    put(0, kind, payload, &mut bytes);
    stream.write_all(&bytes)?;
    let mut input = Vec::new();
    loop {
        if let Some(reply) = take(&mut input)? {
            let text = || String::from_utf8_lossy(&reply.payload).into_owned();
            return Ok(match reply.kind {
                DONE => Ok(reply.payload),
                _ => Err(text()),
            });
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => input.extend_from_slice(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_one_by_one_however_they_were_cut() {
        let mut bytes = Vec::new();
        put(7, PROPOSE, b"entry", &mut bytes);
        put(8, STATUS, b"", &mut bytes);
        let mut input = Vec::new();
        let mut found = Vec::new();
        for byte in bytes {
            input.push(byte);
            found.extend(take(&mut input).unwrap());
        }
        let kinds: Vec<_> = found
            .iter()
            .map(|f| (f.id, f.kind, f.payload.len()))
            .collect();
        assert_eq!(kinds, [(7, PROPOSE, 5), (8, STATUS, 0)]);
        assert!(take(&mut vec![0xff; 32]).is_err());
    }
}
