//! Feeding input to a device that may be full.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::worker::{Handler, Poller, Source, Worker};

/// Takes input as far as it has room.
pub trait InputPort: Send + Sync {
    /// Takes bytes from the front of `bytes` and returns how many. When it is fewer than there are,
    /// [`InputPort::space`] is signalled once there is room again.
    fn offer(&self, bytes: &[u8]) -> usize;
    /// Signalled when there is room after an offer was not taken whole.
    fn space(&self) -> &EventFd;
}

const INPUT: u64 = 0;
const SPACE: u64 = 1;
/// Bytes read ahead of the port; more stays in the source.
const CHUNK: usize = 256;

/// Carries bytes from a file, pipe or socket to an [`InputPort`], in a thread of its own.
pub struct InputPump {
    _worker: Worker<Pump>,
}

impl InputPump {
    /// Reads `source`, which must be pollable, until its end. Dropping the pump ends it; a chunk of
    /// at most 256 bytes that the port has not taken is lost then.
    ///
    /// # Errors
    /// `PermissionDenied` for what cannot be polled (a regular file, `/dev/null`); else the kernel's
    /// answer when there is no thread or fd to be had.
    pub fn spawn(
        source: impl Read + AsRawFd + Send + 'static,
        port: Arc<dyn InputPort>,
    ) -> io::Result<Self> {
        let fd = source.as_raw_fd();
        let space = port.space().try_clone()?;
        let pump = Pump {
            source: Box::new(source),
            fd,
            port,
            space,
            held: Vec::with_capacity(CHUNK),
        };
        Worker::spawn("console-input", pump).map(|worker| Self { _worker: worker })
    }
}

struct Pump {
    source: Box<dyn Read + Send>,
    fd: i32,
    port: Arc<dyn InputPort>,
    space: EventFd,
    /// Read and not taken by the port.
    held: Vec<u8>,
}

impl Pump {
    /// Gives the port what is held; true when it took all.
    fn deliver(&mut self) -> bool {
        let taken = self.port.offer(&self.held);
        self.held.drain(..taken);
        self.held.is_empty()
    }

    fn serve(&mut self, token: u64, poller: &mut Poller) -> io::Result<()> {
        if token == SPACE {
            return match self.deliver() {
                true => poller.unpause(INPUT),
                false => Ok(()),
            };
        }
        self.held.resize(CHUNK, 0);
        let read = self.source.read(&mut self.held);
        self.held.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            // The end: nothing more is to come, but the port may still have to take the rest.
            Ok(0) => poller.remove(INPUT),
            Ok(_) if !self.deliver() => poller.pause(INPUT)?,
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl AsRawFd for Pump {
    fn as_raw_fd(&self) -> i32 {
        self.fd
    }
}

impl Handler for Pump {
    fn sources(&self) -> Vec<Source> {
        vec![
            Source::readable(self, INPUT),
            Source::kick(&self.space, SPACE),
        ]
    }

    fn handle(&mut self, token: u64, poller: &mut Poller) -> ControlFlow<()> {
        match self.serve(token, poller) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::warn!(%error, "no more input can be read");
                ControlFlow::Break(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::time::{Duration, Instant};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    /// Takes `room` bytes, then wants to be emptied.
    struct Narrow {
        room: usize,
        got: Mutex<Vec<u8>>,
        taken: Mutex<usize>,
        space: EventFd,
    }

    impl InputPort for Narrow {
        fn offer(&self, bytes: &[u8]) -> usize {
            let mut taken = self.taken.lock().unwrap();
            let n = bytes.len().min(self.room - *taken);
            *taken += n;
            self.got.lock().unwrap().extend_from_slice(&bytes[..n]);
            n
        }
        fn space(&self) -> &EventFd {
            &self.space
        }
    }

    #[test]
    fn what_cannot_be_polled_is_refused() {
        let (serial, ..) = crate::devices::serial::test_port();
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = InputPump::spawn(null, serial).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_narrow_port_gets_every_byte_in_order() {
        let port = Arc::new(Narrow {
            room: 7,
            got: Mutex::default(),
            taken: Mutex::default(),
            space: EventFd::new(EFD_NONBLOCK).unwrap(),
        });
        let (mut far, near) = UnixStream::pair().unwrap();
        let pump = InputPump::spawn(near, port.clone()).unwrap();
        let sent: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
        far.write_all(&sent).unwrap();
        drop(far);
        let start = Instant::now();
        while port.got.lock().unwrap().len() < sent.len() {
            assert!(start.elapsed() < Duration::from_secs(20));
            *port.taken.lock().unwrap() = 0;
            port.space.write(1).unwrap();
            std::thread::yield_now();
        }
        assert_eq!(*port.got.lock().unwrap(), sent);
        drop(pump);
    }
}
