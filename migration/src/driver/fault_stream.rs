//! Pages that something at the target waits for, as the source sends them.

use std::sync::Arc;
use std::time::Instant;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::{PageRun, VERSIONS};

use super::coded;
use super::rounds::bytes_by_kind;
use crate::page::{CodecChooser, Compression, PageEncoder, SentPages};
use crate::ports::GuestMemory;
use crate::report::BytesByKind;
use crate::transport::FrameSender;

/// The source's side of the fault stream. Pages go whole, whatever was sent before (MIG-76), and
/// uncompressed: a page is on the link before it were compressed.
pub(super) struct FaultStream {
    stream: FrameSender,
    encoder: PageEncoder,
    out: Vec<u8>,
}

impl FaultStream {
    pub(super) fn new(stream: FrameSender, sent: &Arc<SentPages>) -> Self {
        let begin = Instant::now();
        let clock = Box::new(move || begin.elapsed());
        let codec = CodecChooser::new(Compression::Off);
        Self {
            stream,
            encoder: PageEncoder::new(sent.clone(), codec, clock).sending_always(),
            out: Vec::new(),
        }
    }

    /// Sends pages of the paused guest, at most those of a request.
    pub(super) async fn send(
        &mut self,
        memory: &dyn GuestMemory,
        run: PageRun,
    ) -> Result<BytesByKind, CodedError> {
        let before = self.encoder.stats();
        self.out.clear();
        self.encoder
            .encode(memory, [(run.first, run.count)], 0, &mut self.out)
            .map_err(|error| coded(ErrorCode::Memory, &error))?;
        self.stream
            .send(FrameKind::Pages, VERSIONS.newest(), &self.out)
            .await
            .map_err(|error| coded(ErrorCode::LinkLost, &error))?;
        Ok(bytes_by_kind(&self.encoder.stats().since(&before)))
    }
}
