//! The frame decoder, fed in pieces: never a panic, never more kept than the largest frame, and the
//! same frames whatever the pieces. The first byte is the size of a piece.

#![no_main]

use godwit_proto::frame::{Frame, FrameDecoder, FrameError};
use godwit_proto::process::RESPONSE_LIMITS;
use libfuzzer_sys::fuzz_target;

fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new(RESPONSE_LIMITS);
    let mut frames = Vec::new();
    for mut piece in stream.chunks(piece) {
        while !piece.is_empty() {
            let taken = decoder.push(piece);
            assert_ne!(taken, 0);
            piece = &piece[taken..];
            loop {
                match decoder.pop() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
        }
    }
    let end = decoder.end();
    (frames, end)
}

/// Mends magic and checksums along the stream, so that most inputs get past them.
fn mend(stream: &mut [u8]) {
    let mut at = 0;
    while let Some(frame) = stream.get_mut(at..).filter(|rest| rest.len() >= 24) {
        frame[..4].copy_from_slice(b"GDWF");
        frame[13..16].fill(0);
        let length = usize::from(frame[12]).min(frame.len() - 24);
        let crc = crc32c::crc32c(&frame[24..24 + length]);
        frame[16..20].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&frame[..20]);
        frame[20..24].copy_from_slice(&crc.to_le_bytes());
        at += 24 + length;
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else {
        return;
    };
    let piece = usize::from(piece).max(1);
    assert_eq!(frames(stream, piece), frames(stream, usize::MAX));
    let mut mended = stream.to_vec();
    mend(&mut mended);
    assert_eq!(frames(&mended, piece), frames(&mended, usize::MAX));
});
