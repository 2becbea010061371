//! The thread that owns a vCPU, and the handle through which the machine talks to it.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{
    self, Receiver, RecvError, RecvTimeoutError, Sender, SyncSender, TryRecvError,
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_proto::state::vcpu::VcpuState;
use vmm_sys_util::errno::Error as Errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::exit::{self, Crash, CrashCause, Next, VcpuEvent};
use crate::boot::BootRegisters;
use crate::bus::Bus;
use crate::kvm::{KICK_SIGNAL, Kicker, KvmError, Vcpu, Vm};
use crate::memory::DirtyLog;

/// How long a vCPU may take to answer. The kernel leaves a guest within microseconds of a signal;
/// a page fault on lazily restored memory is the slowest thing in between.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a wait looks whether it still makes sense.
const HOPE_CHECK: Duration = Duration::from_millis(50);

/// Why a vCPU did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// Its thread could not be started.
    #[error("cannot start the thread of vcpu {index}")]
    Spawn {
        /// Which vCPU.
        index: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Its thread is gone or stuck.
    #[error("vcpu {index} does not answer to {request}")]
    NoAnswer {
        /// Which vCPU.
        index: u32,
        /// What was asked.
        request: &'static str,
    },
    /// KVM refused.
    #[error("vcpu {index} cannot {request}")]
    Kvm {
        /// Which vCPU.
        index: u32,
        /// What was asked.
        request: &'static str,
        /// What KVM says.
        #[source]
        source: KvmError,
    },
}

/// What all vCPU threads of a machine share.
pub struct VcpuShared {
    /// Ports.
    pub pio: Bus,
    /// Physical addresses.
    pub mmio: Bus,
    /// Where full rings are emptied to.
    pub dirty_log: Arc<DirtyLog>,
    /// The machine, for its clock.
    pub vm: Arc<Vm>,
    /// The MSRs that are part of a vCPU's state.
    pub msr_indices: Vec<u32>,
    /// Set by a device whose register ends the run (power-off, reset): the vCPU that wrote it goes
    /// no further.
    pub yield_requested: Arc<AtomicBool>,
    /// Is told, on the vCPU's thread, why a vCPU stopped by itself.
    pub report: Box<dyn Fn(VcpuEvent) + Send + Sync>,
}

enum Request {
    Run,
    /// Stay out of the guest for so long.
    Sleep(Duration),
    Pause(SyncSender<()>),
    /// As of this moment of kvmclock.
    Save(u64, SyncSender<Result<VcpuState, KvmError>>),
    /// As of this moment of kvmclock, if it has one.
    Restore(
        Box<VcpuState>,
        Option<u64>,
        SyncSender<Result<(), KvmError>>,
    ),
    Boot(Box<BootRegisters>, SyncSender<Result<(), KvmError>>),
    Exit,
}

/// A vCPU as the machine sees it.
pub struct VcpuHandle {
    index: u32,
    requests: Sender<Request>,
    kicker: Arc<Kicker>,
    exits: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Starts the thread of `vcpu`, paused.
    ///
    /// # Errors
    /// [`VcpuError::Spawn`].
    pub fn spawn(vcpu: Vcpu, kicker: Kicker, shared: Arc<VcpuShared>) -> Result<Self, VcpuError> {
        let index = vcpu.index();
        let (requests, inbox) = mpsc::channel();
        let kicker = Arc::new(kicker);
        let exits = Arc::new(AtomicU64::new(0));
        let runner = Runner {
            vcpu,
            kicker: kicker.clone(),
            exits: exits.clone(),
            inbox,
            shared,
            running: false,
            asleep_until: None,
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || runner.serve())
            .map_err(|source| VcpuError::Spawn { index, source })?;
        Ok(Self {
            index,
            requests,
            kicker,
            exits,
            thread: Some(thread),
        })
    }

    /// How often the guest was left for userspace.
    pub fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// Lets it run; returns at once.
    ///
    /// # Errors
    /// [`VcpuError::NoAnswer`] when the thread is gone.
    pub fn run(&self) -> Result<(), VcpuError> {
        self.send(Request::Run, "run")
    }

    /// Asks it to pause; the answer comes when it has. Asking all before waiting for any lets them
    /// stop at the same time.
    ///
    /// # Errors
    /// [`VcpuError::NoAnswer`] when the thread is gone.
    pub fn pause(&self) -> Result<Answer<()>, VcpuError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Request::Pause(reply), "pause")?;
        self.kick();
        Ok(Answer {
            index: self.index,
            request: "pause",
            answer,
        })
    }

    /// Asks a paused vCPU for its state; its TSC as of when kvmclock showed `clock_ns`, which was
    /// after the pause.
    ///
    /// # Errors
    /// [`VcpuError::NoAnswer`] when the thread is gone.
    pub fn save(&self, clock_ns: u64) -> Result<Answer<Result<VcpuState, KvmError>>, VcpuError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Request::Save(clock_ns, reply), "save")?;
        Ok(Answer {
            index: self.index,
            request: "save",
            answer,
        })
    }

    /// Gives a paused vCPU another state; with `clock_ns`, its TSC is of when kvmclock showed that,
    /// and kvmclock has been set.
    ///
    /// # Errors
    /// [`VcpuError::NoAnswer`] when the thread is gone.
    pub fn restore(
        &self,
        state: VcpuState,
        clock_ns: Option<u64>,
    ) -> Result<Answer<Result<(), KvmError>>, VcpuError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let request = Request::Restore(Box::new(state), clock_ns, reply);
        self.send(request, "restore")?;
        Ok(Answer {
            index: self.index,
            request: "restore",
            answer,
        })
    }

    /// Points a paused vCPU at a kernel's entry.
    ///
    /// # Errors
    /// [`VcpuError::NoAnswer`] when the thread is gone.
    pub fn boot(
        &self,
        registers: BootRegisters,
    ) -> Result<Answer<Result<(), KvmError>>, VcpuError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Request::Boot(Box::new(registers), reply), "boot")?;
        Ok(Answer {
            index: self.index,
            request: "boot",
            answer,
        })
    }

    /// Keeps a running vCPU out of the guest for `duration`, or until it is asked for something.
    pub(super) fn sleep(&self, duration: Duration) {
        // A thread that is gone needs no sleep.
        if self.requests.send(Request::Sleep(duration)).is_ok() {
            self.kick();
        }
    }

    /// Tells the thread to end, without waiting for it; dropping the handle does wait.
    pub fn request_exit(&self) {
        if self.requests.send(Request::Exit).is_ok() {
            self.kick();
        }
    }

    fn send(&self, request: Request, name: &'static str) -> Result<(), VcpuError> {
        self.requests
            .send(request)
            .map_err(|_| VcpuError::NoAnswer {
                index: self.index,
                request: name,
            })
    }

    fn kick(&self) {
        self.kicker.raise();
        if let Some(thread) = &self.thread
            && let Err(error) = thread.kill(SIGRTMIN() + KICK_SIGNAL)
        {
            // The thread has ended; then there is nobody to interrupt.
            tracing::debug!(vcpu = self.index, %error, "kick not delivered");
        }
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.request_exit();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(vcpu = self.index, "the vCPU thread panicked");
        }
    }
}

/// An answer that is on its way.
pub struct Answer<T> {
    index: u32,
    request: &'static str,
    answer: Receiver<T>,
}

impl<T> Answer<T> {
    /// Waits for it, within bounds.
    ///
    /// # Errors
    /// [`VcpuError::NoAnswer`].
    pub fn wait(self) -> Result<T, VcpuError> {
        self.wait_unless(&|| false)
    }

    /// Waits for it as long as `hopeless` says no.
    fn wait_unless(self, hopeless: &dyn Fn() -> bool) -> Result<T, VcpuError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.answer.recv_timeout(HOPE_CHECK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline && !hopeless() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(VcpuError::NoAnswer {
                        index: self.index,
                        request: self.request,
                    });
                }
            }
        }
    }
}

impl<T> Answer<Result<T, KvmError>> {
    /// Waits for what KVM has to say.
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn wait_done(self) -> Result<T, VcpuError> {
        self.wait_done_unless(&|| false)
    }

    /// [`Answer::wait_done`] that gives up when `hopeless` says so, as when the vCPU waits for
    /// memory that never comes.
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn wait_done_unless(self, hopeless: &dyn Fn() -> bool) -> Result<T, VcpuError> {
        let (index, request) = (self.index, self.request);
        self.wait_unless(hopeless)?
            .map_err(|source| VcpuError::Kvm {
                index,
                request,
                source,
            })
    }
}

struct Runner {
    vcpu: Vcpu,
    kicker: Arc<Kicker>,
    exits: Arc<AtomicU64>,
    inbox: Receiver<Request>,
    shared: Arc<VcpuShared>,
    running: bool,
    /// A running vCPU that is throttled stays out of the guest until then.
    asleep_until: Option<Instant>,
}

impl Runner {
    fn serve(mut self) {
        loop {
            let request = if self.running {
                match self.next_request() {
                    Ok(request) => request,
                    Err(RecvError) => return,
                }
            } else {
                match self.inbox.recv() {
                    Ok(request) => Some(request),
                    Err(_) => return,
                }
            };
            match request {
                Some(request) => {
                    if self.obey(request).is_break() {
                        return;
                    }
                }
                None => {
                    if let Some(event) = self.run_until_kicked() {
                        self.running = false;
                        (self.shared.report)(event);
                    }
                }
            }
        }
    }

    /// What a running vCPU is asked for, if anything; waits for it while it has to sleep.
    fn next_request(&mut self) -> Result<Option<Request>, RecvError> {
        let Some(until) = self.asleep_until.take() else {
            return match self.inbox.try_recv() {
                Ok(request) => Ok(Some(request)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(RecvError),
            };
        };
        match self
            .inbox
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            Ok(request) => {
                self.asleep_until = Some(until);
                Ok(Some(request))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    fn obey(&mut self, request: Request) -> ControlFlow<()> {
        match request {
            Request::Run => self.running = true,
            Request::Sleep(duration) => self.asleep_until = Some(Instant::now() + duration),
            Request::Pause(reply) => {
                if self.running {
                    self.complete_exit();
                    self.vcpu.mark_paused();
                    self.running = false;
                }
                self.asleep_until = None;
                let _ = reply.send(());
            }
            Request::Save(clock_ns, reply) => {
                let shared = &self.shared;
                let saved = self
                    .vcpu
                    .save_as_of(clock_ns, &shared.vm, &shared.msr_indices);
                let _ = reply.send(saved);
            }
            Request::Restore(state, clock_ns, reply) => {
                let restored = match clock_ns {
                    Some(clock_ns) => self.vcpu.restore_as_of(clock_ns, &self.shared.vm, &state),
                    None => self.vcpu.restore(&state),
                };
                let _ = reply.send(restored);
            }
            Request::Boot(registers, reply) => {
                let _ = reply.send(self.vcpu.boot(&registers));
            }
            Request::Exit => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Runs the guest until a request may be waiting (`None`) or it cannot go on.
    fn run_until_kicked(&mut self) -> Option<VcpuEvent> {
        loop {
            let next = match self.vcpu.run() {
                Ok(exit) => {
                    self.exits.fetch_add(1, Ordering::Relaxed);
                    exit::handle(exit, &self.shared.pio, &self.shared.mmio)
                }
                Err(errno) => match errno.errno() {
                    libc::EINTR => {
                        self.kicker.lower();
                        return None;
                    }
                    libc::EAGAIN => Next::Run,
                    _ => Next::Stop(run_failed(errno)),
                },
            };
            let cause = match next {
                Next::Run => {
                    if self.shared.yield_requested.load(Ordering::Acquire) {
                        self.complete_exit();
                        return Some(VcpuEvent::Yielded);
                    }
                    continue;
                }
                Next::DrainRing => match self.shared.dirty_log.drain_rings() {
                    Ok(()) => continue,
                    Err(error) => CrashCause::RunFailed {
                        error: error.to_string(),
                    },
                },
                Next::InternalError => CrashCause::InternalError {
                    suberror: self.vcpu.internal_error(),
                },
                Next::Stop(cause) => cause,
            };
            return Some(VcpuEvent::Crashed(self.crash(cause)));
        }
    }

    /// Lets KVM finish the access that the last exit was about, so that registers are those after
    /// the instruction: one more entry with the kick raised (KVM API 5, "KVM_EXIT_IO").
    fn complete_exit(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        self.kicker.raise();
        // An access split into several exits needs several turns; each is served as usual.
        while Instant::now() < deadline {
            match self.vcpu.run() {
                Ok(exit) => {
                    exit::handle(exit, &self.shared.pio, &self.shared.mmio);
                }
                Err(errno) if errno.errno() == libc::EAGAIN => {}
                Err(_) => break,
            }
        }
        self.kicker.lower();
    }

    fn crash(&mut self, cause: CrashCause) -> Crash {
        let registers = match self.vcpu.registers() {
            Ok(registers) => registers.to_string(),
            Err(error) => error.to_string(),
        };
        Crash {
            cause,
            vcpu: self.vcpu.index(),
            registers,
        }
    }
}

fn run_failed(errno: Errno) -> CrashCause {
    match errno.errno() {
        // Guest memory that the lazy restore refused to provide.
        libc::EFAULT | libc::EHWPOISON => CrashCause::Memory {
            error: errno.to_string(),
        },
        _ => CrashCause::RunFailed {
            error: errno.to_string(),
        },
    }
}
