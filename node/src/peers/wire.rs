//! One frame on a QUIC stream.

use godwit_proto::frame::{Frame, FrameDecoder};
use godwit_proto::peer::{LIMITS, PeerRequest, PeerResponse, VERSIONS};
use quinn::{RecvStream, SendStream};

/// Bytes taken from a stream at once.
const READ_BYTES: usize = 256 << 10;

/// Why no message went or came.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the stream ended before the message")]
    Ended,
    #[error("cannot read from the peer")]
    Read(#[from] quinn::ReadError),
    #[error("cannot write to the peer")]
    Write(#[from] quinn::WriteError),
    #[error("the peer's frame is malformed")]
    Frame(#[from] godwit_proto::frame::FrameError),
    #[error("the message is malformed")]
    Message(#[from] godwit_proto::peer::MessageError),
}

/// The next frame, and the bytes that came after it.
async fn receive(stream: &mut RecvStream) -> Result<(Frame, Vec<u8>), WireError> {
    let mut decoder = FrameDecoder::new(LIMITS);
    loop {
        if let Some(frame) = decoder.pop()? {
            return Ok((frame, decoder.into_rest()));
        }
        let chunk = stream.read_chunk(READ_BYTES, true).await?;
        let mut bytes = chunk.ok_or(WireError::Ended)?.bytes;
        while !bytes.is_empty() {
            let taken = decoder.push(&bytes);
            // It takes less than it is given only when a frame is whole.
            if taken == 0 {
                break;
            }
            bytes = bytes.split_off(taken);
        }
        if !bytes.is_empty() {
            return match decoder.pop()? {
                Some(frame) => {
                    let mut rest = decoder.into_rest();
                    rest.extend_from_slice(&bytes);
                    Ok((frame, rest))
                }
                None => Err(WireError::Ended),
            };
        }
    }
}

pub(super) async fn receive_request(stream: &mut RecvStream) -> Result<PeerRequest, WireError> {
    let (frame, _) = receive(stream).await?;
    Ok(PeerRequest::from_frame(&frame)?)
}

/// The response, and the raw bytes that followed it.
pub(super) async fn receive_response(
    stream: &mut RecvStream,
) -> Result<(PeerResponse, Vec<u8>), WireError> {
    let (frame, rest) = receive(stream).await?;
    Ok((PeerResponse::from_frame(&frame)?, rest))
}

pub(super) async fn send_request(
    stream: &mut SendStream,
    request: &PeerRequest,
) -> Result<(), WireError> {
    let frame = request.to_frame(VERSIONS.newest())?;
    Ok(stream.write_all(&frame).await?)
}

pub(super) async fn send_response(
    stream: &mut SendStream,
    response: &PeerResponse,
) -> Result<(), WireError> {
    let frame = response.to_frame(VERSIONS.newest())?;
    Ok(stream.write_all(&frame).await?)
}
