//! The console as the transport sees it, and the handle by which the rest of the VMM reaches it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::inbox::Inbox;
use super::persist;
use super::worker::ConsoleWorker;
use crate::devices::terminal::{InputPort, Sink};
use crate::devices::virtio::worker::Worker;
use crate::devices::virtio::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice, VirtioInterrupt,
};

/// The configuration space has a size (5.3.3).
const F_SIZE: u64 = 1 << 0;
/// Entries of the receive and the transmit queue.
const QUEUE_SIZES: [u16; 2] = [128, 128];
/// `struct virtio_console_config`: columns, rows, ports, emergency write.
const CONFIG_SIZE: usize = 12;

/// Size of the terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

#[derive(Default)]
struct Window {
    size: WindowSize,
    /// There while the device works.
    interrupt: Option<Arc<dyn VirtioInterrupt>>,
}

struct Shared {
    inbox: Arc<Inbox>,
    window: Mutex<Window>,
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A virtio console. Idle until a driver activates it.
pub struct Console {
    shared: Arc<Shared>,
    sized: bool,
    /// Only the worker locks it; it is here so that it outlives workers.
    sink: Arc<Mutex<Box<dyn Sink>>>,
    worker: Option<Worker<ConsoleWorker>>,
}

/// Feeds a console and tells it the size of the terminal.
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// Tells the driver that the terminal has another size. Nothing happens when the console was
    /// made without one.
    pub fn resize(&self, size: WindowSize) {
        let mut window = self.0.window();
        if window.size == size {
            return;
        }
        window.size = size;
        if let Some(interrupt) = &window.interrupt
            && let Err(error) = interrupt.config_changed()
        {
            tracing::warn!(%error, "cannot tell the driver of the terminal's new size");
        }
    }
}

impl InputPort for ConsoleHandle {
    fn offer(&self, bytes: &[u8]) -> usize {
        self.0.inbox.offer(bytes)
    }

    fn space(&self) -> &EventFd {
        self.0.inbox.space()
    }
}

impl Console {
    /// A console whose output goes to `sink`; with `size` the driver is told the terminal's size.
    ///
    /// # Errors
    /// The kernel's answer when there is no eventfd to be had.
    pub fn new(sink: Box<dyn Sink>, size: Option<WindowSize>) -> io::Result<(Self, ConsoleHandle)> {
        let shared = Arc::new(Shared {
            inbox: Arc::new(Inbox::new()?),
            window: Mutex::new(Window {
                size: size.unwrap_or_default(),
                interrupt: None,
            }),
        });
        let console = Self {
            shared: shared.clone(),
            sized: size.is_some(),
            sink: Arc::new(Mutex::new(sink)),
            worker: None,
        };
        Ok((console, ConsoleHandle(shared)))
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        if self.sized { F_SIZE } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let size = self.shared.window().size;
        let mut space = [0; CONFIG_SIZE];
        space[..2].copy_from_slice(&size.columns.to_le_bytes());
        space[2..4].copy_from_slice(&size.rows.to_le_bytes());
        space[4] = 1;
        for (at, byte) in (offset..).zip(data) {
            let at = usize::try_from(at).unwrap_or(CONFIG_SIZE);
            *byte = space.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = activation;
        let enabled = queues.iter().map(|q| q.index).collect();
        let Ok(queues) = <[ActiveQueue; 2]>::try_from(queues) else {
            return Err(ActivateError::Queues {
                device: DeviceType::Console,
                enabled,
                need: "both the receive and the transmit queue",
            });
        };
        let sink = self.sink.clone();
        let inbox = self.shared.inbox.clone();
        let handler = ConsoleWorker::new(queues, memory, interrupt.clone(), inbox, sink);
        let worker =
            Worker::spawn("virtio-console", handler).map_err(|source| ActivateError::Worker {
                device: DeviceType::Console,
                source,
            })?;
        self.worker = Some(worker);
        self.shared.window().interrupt = Some(interrupt);
        self.shared.inbox.open();
        Ok(())
    }

    fn request_quiesce(&self) {
        if let Some(worker) = &self.worker {
            worker.request_stop();
        }
    }

    fn quiesce(&mut self) -> Vec<ActiveQueue> {
        let Some(worker) = self.worker.take() else {
            return Vec::new();
        };
        self.shared.inbox.close();
        self.shared.window().interrupt = None;
        worker.stop().into_queues().into()
    }

    fn save(&self) -> Vec<u8> {
        persist::save(self.shared.window().size, self.shared.inbox.content())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let (size, input) = persist::restore(state).map_err(|error| RestoreError {
            device: DeviceType::Console,
            source: Box::new(error),
        })?;
        self.shared.window().size = size;
        self.shared.inbox.set_content(input);
        Ok(())
    }
}
