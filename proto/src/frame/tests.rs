use super::*;

const LIMITS: Limits = Limits {
    versions: crate::process::VERSIONS,
    max_payload_bytes: 64,
};

fn request(payload: &[u8]) -> Vec<u8> {
    encode(FrameKind::Request, 1, payload, LIMITS.max_payload_bytes).unwrap()
}

/// Feeds `bytes` in pieces of `piece` bytes and returns every frame, and how the stream ended.
fn decode_in_pieces(bytes: &[u8], piece: usize) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new(LIMITS);
    let mut frames = Vec::new();
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            let taken = decoder.push(piece);
            assert_ne!(taken, 0, "a decoder without a whole frame takes bytes");
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

#[test]
fn frames_come_out_the_same_however_the_stream_is_cut() {
    let mut stream = encode_hello(LIMITS.versions);
    stream.extend(request(b""));
    stream.extend(request(&[7; 64]));
    stream.extend(request(b"three"));
    let (whole, end) = decode_in_pieces(&stream, stream.len());
    end.unwrap();
    assert_eq!(whole.len(), 4);
    assert_eq!(whole[0].version, UNSETTLED);
    assert_eq!(
        VersionRange::from_bytes(&whole[0].payload),
        Ok(LIMITS.versions)
    );
    assert_eq!(whole[2].payload, [7; 64]);
    for piece in 1..stream.len() {
        let (frames, end) = decode_in_pieces(&stream, piece);
        assert_eq!((frames, end), (whole.clone(), Ok(())), "pieces of {piece}");
    }
}

#[test]
fn a_stream_that_ends_within_a_frame_is_noticed_at_every_byte() {
    let stream = request(b"payload");
    for length in 1..stream.len() {
        let (frames, end) = decode_in_pieces(&stream[..length], length);
        assert_eq!(frames, []);
        let missing_now = if length < HEADER_BYTES {
            HEADER_BYTES
        } else {
            stream.len()
        } - length;
        assert_eq!(end, Err(FrameError::Truncated { need: missing_now }));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let stream = request(b"payload");
    for bit in 0..stream.len() * 8 {
        let mut bytes = stream.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = decode(&bytes, &LIMITS).unwrap_err();
        let expected = match bit / 8 {
            0..4 => matches!(error, FrameError::BadMagic { .. }),
            4..24 => error == FrameError::Checksum { part: "header" },
            _ => error == FrameError::Checksum { part: "payload" },
        };
        assert!(expected, "bit {bit}: {error}");
    }
}

#[test]
fn a_payload_above_the_bound_is_refused_from_the_header_alone() {
    let frame = encode(FrameKind::Request, 1, &[0; 65], 65).unwrap();
    let error = decode(&frame[..HEADER_BYTES], &LIMITS).unwrap_err();
    assert_eq!(error, FrameError::TooLong { len: 65, max: 64 });
    let error = encode(FrameKind::Request, 1, &[0; 65], 64).unwrap_err();
    assert_eq!(error, FrameError::TooLong { len: 65, max: 64 });
}

#[test]
fn a_version_the_receiver_does_not_speak_is_refused_except_in_a_hello() {
    for version in [0, 2, u16::MAX] {
        let frame = encode(FrameKind::Request, version, b"", 64).unwrap();
        let error = decode(&frame, &LIMITS).unwrap_err();
        assert_eq!(
            error,
            FrameError::VersionUnsupported {
                peer: version,
                ours: LIMITS.versions
            }
        );
    }
    let future = VersionRange::new(300, 301).unwrap();
    assert!(decode(&encode_hello(future), &LIMITS).is_ok());
}

#[test]
fn an_unknown_kind_is_an_error_unless_it_is_optional() {
    let mandatory = encode_number(999, 1, 0, b"?", 64).unwrap();
    assert_eq!(
        decode(&mandatory, &LIMITS),
        Err(FrameError::UnknownKind { kind: 999 })
    );

    let mut stream = encode_number(999, 1, OPTIONAL, b"?", 64).unwrap();
    stream.extend(request(b"known"));
    let (frames, end) = decode_in_pieces(&stream, 5);
    end.unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].payload, b"known");
}

#[test]
fn reserved_bits_are_refused() {
    let frame = encode_number(2, 1, 0x8001, b"", 64).unwrap();
    assert_eq!(
        decode(&frame, &LIMITS),
        Err(FrameError::UnknownFlags { flags: 0x8001 })
    );
}

#[test]
fn the_decoder_keeps_no_more_than_the_largest_frame() {
    let mut decoder = FrameDecoder::new(LIMITS);
    let stream = request(&[1; 64]).repeat(3);
    assert_eq!(decoder.push(&stream), HEADER_BYTES + 64);
    assert_eq!(decoder.push(&stream), 0);
    assert!(decoder.pop().unwrap().is_some());
    assert_eq!(decoder.push(&stream), HEADER_BYTES + 64);
}

#[test]
fn an_error_is_final() {
    let mut decoder = FrameDecoder::new(LIMITS);
    decoder.push(&[b'x'; 88]);
    let error = decoder.pop().unwrap_err();
    assert_eq!(decoder.push(&request(b"good")), 28);
    assert_eq!(decoder.pop(), Err(error.clone()));
    assert_eq!(decoder.end(), Err(error));
}

#[test]
fn bytes_after_the_last_frame_are_given_back() {
    let mut stream = request(b"attach");
    stream.extend(b"raw console");
    let mut decoder = FrameDecoder::new(LIMITS);
    assert_eq!(decoder.push(&stream), stream.len());
    assert!(decoder.pop().unwrap().is_some());
    assert_eq!(decoder.into_rest(), b"raw console");
}
