//! Where output goes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes what the guest writes. Called on vCPU threads.
pub trait Sink: Send {
    /// Takes all of `bytes`; what cannot be delivered is lost, and counted where anybody could know.
    fn write(&mut self, bytes: &[u8]);
}

/// Drops everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl Sink for NullSink {
    fn write(&mut self, _bytes: &[u8]) {}
}

/// Writes to stdout or a file, directly: the guest waits as long as the write takes.
#[derive(Debug)]
pub struct WriteSink<W> {
    out: W,
    lost: Arc<AtomicU64>,
}

impl<W: Write + Send> WriteSink<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            lost: Arc::default(),
        }
    }

    /// How many bytes could not be written, readable from any thread.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }
}

impl<W: Write + Send> Sink for WriteSink<W> {
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            let before = self.lost.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if before == 0 {
                tracing::warn!(%error, "serial output is lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let mut sink = WriteSink::new(Full);
        let lost = sink.lost();
        sink.write(b"abc");
        sink.write(b"d");
        assert_eq!(lost.load(Ordering::Relaxed), 4);
        NullSink.write(b"abc");
    }
}
