//! A guest: built, run, paused, saved, restored, reset, stopped.
//!
//! ```text
//!  build / restore        resume            pause, or an event
//! ------------------> Created ----> Running ------------------> Paused
//!                                      ^                           |
//!                                      '---------------------------'
//!                                            resume, reset+resume
//!
//! build_waiting   await_memory?   take_state
//! --------------> Waiting --------------------> Paused
//! ```
//!
//! The owner waits for events in [`Guest::wait`] and may pause, save and resume from other threads;
//! one change happens at a time. Pausing stops the vCPUs first and the devices after, so that nothing
//! the guest asked for is half done; resuming goes the other way.

mod error;
mod event;
mod first_frame;
mod machine;
mod restore;
mod save;
mod snapshot;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use godwit_proto::guest::GuestSpec;
use godwit_proto::process::{GuestState, GuestStats, Overrides, SnapshotReport, VcpuStats};
use godwit_proto::state::memory::MemoryLayout;
use godwit_proto::state::vcpu::CpuidEntry;

use crate::config::GuestConfig;
use crate::devices::serial::Serial;
use crate::devices::terminal::{NullSink, Sink};
use crate::devices::virtio::console::Console;
use crate::memory::lazy::LazyFill;
use crate::memory::post_copy::{Arrival, PostCopy};
use crate::memory::{DirtyLog, GuestRam};
use crate::vcpu::Throttle;

pub use error::GuestError;
pub use event::GuestEvent;
pub use first_frame::FirstFrameWatch;
pub use machine::DirtyTracking;
pub use restore::snapshot_spec;

use event::{Inbox, Signal, Signals};
use machine::{Claiming, Machine};

/// What the guest is connected to in this process.
pub struct Attachments {
    /// Where the serial port's output goes. Input goes through [`Guest::serial`].
    pub serial: Box<dyn Sink>,
    /// The virtio console of a guest whose spec has one; without it the guest has none.
    pub console: Option<Console>,
    /// How written pages are reported.
    pub dirty_tracking: DirtyTracking,
    /// What another process of this host hands over: with it [`Guest::build_waiting`] does not make
    /// what is in it.
    pub heirloom: Option<Heirloom>,
}

/// What makes a guest of one process that of another on the same host without copying a page.
#[derive(Debug)]
pub struct Heirloom {
    /// Its memory file.
    pub memory: File,
    /// The queues of its network cards' taps, by the cards' ids; `None` when taps are to be opened.
    pub taps: Option<Vec<(String, Vec<File>)>>,
}

impl Default for Attachments {
    /// A serial port whose output is dropped, and no console.
    fn default() -> Self {
        Self {
            serial: Box::new(NullSink),
            console: None,
            dirty_tracking: DirtyTracking::default(),
            heirloom: None,
        }
    }
}

/// How a snapshot is restored.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Let the guest run before all its memory is read.
    pub lazy: bool,
    /// What is different here.
    pub overrides: Overrides,
}

/// What the guest does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has no kernel, and no state yet.
    Waiting,
    Created,
    Running,
    Paused,
    /// Its memory is damaged, or a reset failed half-way; it never runs again.
    Lost,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waits for its state",
            Self::Created => "has not been started",
            Self::Running => "is running",
            Self::Paused => "is paused",
            Self::Lost => "cannot run any more",
        }
    }
}

/// A guest. Dropping it ends it.
pub struct Guest {
    spec: GuestSpec,
    /// Held while what the guest does is being changed, or while it must not change.
    turn: Mutex<()>,
    /// What it does; held only to look or to set.
    phase: Mutex<Phase>,
    /// Fills memory of a lazily restored guest; before `machine`, whose threads may wait for it.
    lazy: Mutex<Option<LazyFill>>,
    /// Brings in memory that follows the guest from elsewhere; likewise.
    arriving: Mutex<Option<Arc<PostCopy>>>,
    machine: Machine,
    inbox: Inbox,
    signals: Signals,
    started: Mutex<Option<Instant>>,
    /// When it was last let run.
    resumed: Mutex<Option<Instant>>,
    /// Slows vCPUs down; made when first asked for.
    throttle: Mutex<Option<Throttle>>,
    state_restore: OnceLock<Duration>,
}

impl Guest {
    /// Builds the guest that `spec` describes and loads its kernel. It does not run yet.
    ///
    /// # Errors
    /// [`GuestError`]; nothing is left behind.
    pub fn build(spec: &GuestSpec, attachments: Attachments) -> Result<Self, GuestError> {
        let guest = Self::assemble(spec.clone(), attachments, Claiming::Now, Phase::Created)?;
        guest.machine.boot()?;
        Ok(guest)
    }

    /// Builds the hardware that `spec` describes, with no kernel and zero memory: it waits for the
    /// memory and the state of a guest that it takes the place of, and that has the disks until then.
    ///
    /// # Errors
    /// [`GuestError`]; nothing is left behind.
    pub fn build_waiting(spec: &GuestSpec, attachments: Attachments) -> Result<Self, GuestError> {
        Self::assemble(
            spec.clone(),
            attachments,
            Claiming::AtResume,
            Phase::Waiting,
        )
    }

    /// Gives a guest of [`Guest::build_waiting`] the state that [`Guest::save`] gave elsewhere. Its
    /// memory is in place. It is paused then.
    ///
    /// # Errors
    /// [`GuestError`] when the state is damaged or of another machine; the guest is of no use then.
    pub fn take_state(&self, state: &[u8]) -> Result<(), GuestError> {
        let _turn = self.turn();
        match self.current() {
            Phase::Waiting => restore::take_state(self, state),
            other => Err(wrong_state("give a state to", other)),
        }
    }

    /// Gives up what a guest of [`Guest::build_waiting`] has of these pages, runs of (first page, pages),
    /// for they will follow it. Takes the kernel some time for each.
    ///
    /// # Errors
    /// [`GuestError`]; the guest is of no use then.
    pub fn give_up_memory(
        &self,
        pages: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), GuestError> {
        let _turn = self.turn();
        match self.current() {
            Phase::Waiting => Ok(PostCopy::give_up(self.ram(), pages)?),
            other => Err(wrong_state("give up memory of", other)),
        }
    }

    /// Makes pages of a guest of [`Guest::build_waiting`] absent: they follow it. Runs of (first page,
    /// pages), all of them given up. Until [`Guest::memory_arrived`] it is neither reset nor written to a snapshot.
    ///
    /// # Errors
    /// [`GuestError`]; the guest is of no use then.
    pub fn await_memory(
        &self,
        missing: impl IntoIterator<Item = (u64, u64)>,
        tell: impl FnMut(Arrival) + Send + 'static,
    ) -> Result<Arc<PostCopy>, GuestError> {
        let _turn = self.turn();
        match self.current() {
            Phase::Waiting => {}
            other => return Err(wrong_state("let memory follow", other)),
        }
        let arriving = Arc::new(PostCopy::start(self.ram(), missing, tell)?);
        *self.arriving() = Some(arriving.clone());
        Ok(arriving)
    }

    /// All memory has arrived; from now on nothing waits for any.
    pub fn memory_arrived(&self) {
        let arriving = self.arriving().take();
        if let Some(arriving) = arriving {
            arriving.finish();
        }
    }

    /// Stops the vCPUs of a guest that runs without memory that will not arrive, for good. It must
    /// not be dropped: its devices may wait for that memory, and would go on with zeros. The end of
    /// the process is theirs.
    pub fn abandon(&self) {
        *self.phase() = Phase::Lost;
        for vcpu in &self.machine.vcpus {
            vcpu.request_exit();
        }
    }

    /// Brings in what a lazily restored guest has not read of its snapshot yet.
    ///
    /// # Errors
    /// [`GuestError::MemoryLost`].
    pub fn complete_memory(&self) -> Result<(), GuestError> {
        let lazy = self.lazy().take();
        match lazy.map(LazyFill::finish) {
            Some(false) => {
                let cause = "reading the rest of the snapshot it was restored from failed".into();
                Err(GuestError::MemoryLost { cause })
            }
            Some(true) | None => Ok(()),
        }
    }

    fn assemble(
        spec: GuestSpec,
        attachments: Attachments,
        claiming: Claiming,
        phase: Phase,
    ) -> Result<Self, GuestError> {
        let config = GuestConfig::try_from(&spec)?;
        let (signals, inbox) = Inbox::new();
        let machine = Machine::new(config, attachments, claiming, &signals)?;
        Ok(Self {
            spec,
            turn: Mutex::new(()),
            phase: Mutex::new(phase),
            lazy: Mutex::new(None),
            arriving: Mutex::new(None),
            machine,
            inbox,
            signals,
            started: Mutex::new(None),
            resumed: Mutex::new(None),
            throttle: Mutex::new(None),
            state_restore: OnceLock::new(),
        })
    }

    /// Builds the guest of the snapshot at `dir`, ready to resume where it was.
    ///
    /// # Errors
    /// [`GuestError`]; nothing is left behind.
    pub fn restore(
        dir: &Path,
        options: &RestoreOptions,
        attachments: Attachments,
    ) -> Result<Self, GuestError> {
        restore::restore(dir, options, attachments)
    }

    /// How long giving vCPUs, interrupt controllers, clock and devices their saved state took, once
    /// the machine was built and memory was in place (or on call); `None` for a guest that was not
    /// restored.
    pub fn state_restore_time(&self) -> Option<Duration> {
        self.state_restore.get().copied()
    }

    /// What the guest was asked to be.
    pub fn spec(&self) -> &GuestSpec {
        &self.spec
    }

    /// Starts it, or lets it go on after a pause.
    ///
    /// # Errors
    /// [`GuestError::WrongState`] when it runs already.
    pub fn resume(&self) -> Result<(), GuestError> {
        let _turn = self.turn();
        self.resume_in_turn()
    }

    fn resume_in_turn(&self) -> Result<(), GuestError> {
        match self.current() {
            Phase::Created | Phase::Paused => {}
            other => return Err(wrong_state("resume", other)),
        }
        self.machine.claim_disks()?;
        self.machine.power.resume()?;
        self.machine.serial.resume();
        self.machine.pci.resume_all();
        for vcpu in &self.machine.vcpus {
            vcpu.run()?;
        }
        *self.phase() = Phase::Running;
        let now = Instant::now();
        *self.resumed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.started
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(now);
        Ok(())
    }

    /// Stops the vCPUs and lets the devices finish what they have begun.
    ///
    /// # Errors
    /// [`GuestError::WrongState`] when it does not run.
    pub fn pause(&self) -> Result<(), GuestError> {
        let _turn = self.turn();
        match self.current() {
            Phase::Running => {}
            other => return Err(wrong_state("pause", other)),
        }
        self.pause_in_turn()
    }

    fn pause_in_turn(&self) -> Result<(), GuestError> {
        let answers: Vec<_> = self
            .machine
            .vcpus
            .iter()
            .map(|vcpu| vcpu.pause())
            .collect::<Result<_, _>>()?;
        for answer in answers {
            answer.wait()?;
        }
        self.machine.serial.pause();
        self.machine.pci.quiesce_all();
        *self.phase() = Phase::Paused;
        Ok(())
    }

    /// Gives up what only one running guest can have, the right to use its disks, so that another
    /// process can run it. Only while paused; [`Guest::resume`] takes it back if nobody else has.
    ///
    /// # Errors
    /// [`GuestError::WrongState`] when it is not paused.
    pub fn relinquish(&self) -> Result<(), GuestError> {
        let _turn = self.turn();
        match self.current() {
            Phase::Paused => self.machine.release_disks(),
            other => Err(wrong_state("give up", other)),
        }
    }

    /// Copies of the descriptors that another process of this host needs to take the guest over
    /// without copying its memory. This process goes on using its own.
    ///
    /// # Errors
    /// [`GuestError::HandOver`] when there are too many open files, [`GuestError::WrongState`] while
    /// its memory still comes in from a snapshot.
    pub fn heirloom(&self) -> Result<Heirloom, GuestError> {
        let _turn = self.turn();
        let filling = self
            .lazy()
            .as_ref()
            .is_some_and(|fill| !fill.progress().complete.load(Ordering::Acquire));
        match self.current() {
            Phase::Running | Phase::Paused if !filling => {
                self.machine.heirloom().map_err(GuestError::HandOver)
            }
            Phase::Running | Phase::Paused => Err(GuestError::WrongState {
                request: "hand over",
                is: "still gets its memory from a snapshot",
            }),
            other => Err(wrong_state("hand over", other)),
        }
    }

    /// Puts the machine back to power-on, boots again, and lets it run.
    ///
    /// # Errors
    /// [`GuestError`], for instance when the kernel's file is gone. The guest cannot be resumed
    /// then.
    pub fn reset(&self) -> Result<(), GuestError> {
        let _turn = self.turn();
        self.has_all_memory("reset")?;
        match self.current() {
            Phase::Running => self.pause_in_turn()?,
            Phase::Created | Phase::Paused => {}
            other @ (Phase::Waiting | Phase::Lost) => return Err(wrong_state("reset", other)),
        }
        // Nothing may run until all of it is done.
        *self.phase() = Phase::Lost;
        // What has not been read from a snapshot is not needed any more.
        drop(self.lazy().take());
        self.machine.reset()?;
        self.inbox.clear();
        *self.phase() = Phase::Created;
        self.resume_in_turn()
    }

    /// The state without memory, as a sequence of records. Only while paused.
    ///
    /// # Errors
    /// [`GuestError::WrongState`], or what cannot be saved.
    pub fn save(&self) -> Result<Vec<u8>, GuestError> {
        let _turn = self.turn();
        match self.current() {
            Phase::Paused | Phase::Created => save::records(self)?.finish().map_err(Into::into),
            other => Err(wrong_state("save", other)),
        }
    }

    /// Writes state and memory to `dir`, which must not exist. A running guest is paused for it and
    /// goes on afterwards, also when writing fails. The content of disks is not part of it.
    ///
    /// # Errors
    /// [`GuestError`]; nothing is left at `dir`.
    pub fn snapshot(&self, dir: &Path) -> Result<SnapshotReport, GuestError> {
        snapshot::take(self, dir)
    }

    /// Waits for an event; `None` at the deadline, or after [`Guest::interrupt`]. On an event the
    /// guest is paused.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<GuestEvent> {
        let event = self.inbox.wait(deadline)?;
        if let GuestEvent::MemoryLost { .. } = event {
            // Without waiting for the turn: whoever has it may wait for that memory.
            *self.phase() = Phase::Lost;
            return Some(event);
        }
        let _turn = self.turn();
        if self.current() == Phase::Running
            && let Err(error) = self.pause_in_turn()
        {
            tracing::error!(%error, "the guest could not be paused after its end");
        }
        Some(event)
    }

    /// Makes a [`Guest::wait`] of another thread return `None`, or the next one.
    pub fn interrupt(&self) {
        self.signals.send(Signal::Interrupt);
    }

    /// Presses the power button. What the guest does about it is its affair.
    ///
    /// # Errors
    /// [`GuestError::Interrupt`].
    pub fn press_power_button(&self) -> Result<(), GuestError> {
        Ok(self.machine.power.press_power_button()?)
    }

    /// The serial port, for input.
    pub fn serial(&self) -> &Arc<Serial> {
        &self.machine.serial
    }

    /// Where its memory lies.
    pub fn memory_layout(&self) -> MemoryLayout {
        save::layout(self)
    }

    /// What its vCPUs answer to `CPUID`, the first one's for what differs between them.
    pub fn cpuid(&self) -> &[CpuidEntry] {
        self.machine.cpuid()
    }

    /// The log of written pages.
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        &self.machine.dirty_log
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.machine.ram
    }

    /// Has every network card announce itself on its network, as after a move; some times, the first
    /// now.
    ///
    /// # Errors
    /// [`GuestError::Device`] when it is announced this once only.
    pub fn announce(&self) -> Result<(), GuestError> {
        self.machine.announce()
    }

    /// Watches for the first frame that it sends on any network card after it was last resumed.
    pub fn watch_first_frame(&self) -> FirstFrameWatch {
        let resumed = *self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        FirstFrameWatch::new(resumed, self.machine.cards().cloned().collect())
    }

    /// Lets vCPU `index` sleep `percent` of its time, 0 to [`crate::vcpu::MAX_PERCENT`], so that it
    /// writes less memory. What is no vCPU is ignored.
    ///
    /// # Errors
    /// [`GuestError::Vcpu`] when there is no thread to be had for it.
    pub fn throttle(&self, index: usize, percent: u8) -> Result<(), GuestError> {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if throttle.is_none() {
            *throttle = Some(Throttle::start(self.machine.vcpus.clone())?);
        }
        if let Some(throttle) = &*throttle {
            throttle.set(index, percent);
        }
        Ok(())
    }

    /// Counters.
    pub fn stats(&self) -> GuestStats {
        let started = *self.started.lock().unwrap_or_else(PoisonError::into_inner);
        GuestStats {
            state: match *self.phase() {
                Phase::Waiting | Phase::Created => GuestState::Created,
                Phase::Running => GuestState::Running,
                Phase::Paused => GuestState::Paused,
                Phase::Lost => GuestState::Stopped,
            },
            memory_bytes: self.machine.ram.bytes(),
            resident_bytes: self.machine.ram.resident_bytes(),
            dirty_pages: None,
            uptime_ns: started.map_or(0, |s| s.elapsed().as_nanos() as u64),
            vcpus: self
                .machine
                .vcpus
                .iter()
                .map(|vcpu| VcpuStats {
                    exits: vcpu.exits(),
                })
                .collect(),
            devices: self.machine.device_stats(),
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Phase {
        *self.phase()
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arriving(&self) -> MutexGuard<'_, Option<Arc<PostCopy>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what would lose pages that are under way.
    fn has_all_memory(&self, request: &'static str) -> Result<(), GuestError> {
        match &*self.arriving() {
            Some(_) => Err(GuestError::WrongState {
                request,
                is: "still gets its memory",
            }),
            None => Ok(()),
        }
    }

    fn lazy(&self) -> MutexGuard<'_, Option<LazyFill>> {
        self.lazy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong_state(request: &'static str, phase: Phase) -> GuestError {
    GuestError::WrongState {
        request,
        is: phase.name(),
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A vCPU may wait for memory that is not in yet: it is told to leave first, then let go, so
        // that it never runs on what is not the guest's memory.
        for vcpu in &self.machine.vcpus {
            vcpu.request_exit();
        }
        drop(self.lazy().take());
        self.memory_arrived();
        drop(
            self.throttle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.machine.vcpus.clear();
        self.machine.pci.quiesce_all();
    }
}
