//! What a guest process can be asked.

use rkyv::{Archive, Deserialize, Serialize};

use super::mandate::{Mandate, Proof};
use crate::guest::{GuestSpec, SerialSpec};
use crate::id::{Epoch, MigrationId};
use crate::migrate::Mode;

/// A request to a guest process. Paths are as the guest process sees them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Build the guest, ready to start: [`Response::Ok`](super::Response::Ok).
    Create(GuestSpec),
    /// Build the guest from a snapshot, ready to start: [`Response::Ok`](super::Response::Ok).
    Restore {
        /// The directory of the snapshot.
        dir: String,
        /// Read memory when the guest touches it, in place of all of it first.
        lazy: bool,
        /// What is different on this host.
        overrides: Overrides,
    },
    /// Let a created guest run: [`Response::Ok`](super::Response::Ok).
    Start,
    /// Stop the vCPUs and quiesce the devices: [`Response::Ok`](super::Response::Ok).
    Pause,
    /// Let a paused guest run: [`Response::Ok`](super::Response::Ok).
    Resume,
    /// The state of a paused guest without its memory: [`Response::Saved`](super::Response::Saved).
    Save,
    /// Write state and memory to a directory: [`Response::Snapshot`](super::Response::Snapshot). A
    /// running guest is paused for it and then runs on.
    Snapshot {
        /// The directory, which must not exist yet.
        dir: String,
    },
    /// Counters: [`Response::Stats`](super::Response::Stats).
    Stats,
    /// Turn this stream into the console's: [`Response::Ok`](super::Response::Ok), then raw bytes.
    AttachConsole {
        /// Which console.
        which: ConsoleKind,
    },
    /// Press the power button: [`Response::Ok`](super::Response::Ok), whatever the guest makes of
    /// it.
    PowerButton,
    /// Reset the guest at once: [`Response::Ok`](super::Response::Ok).
    Reset,
    /// Stop the guest at once and end the process: [`Response::Exited`](super::Response::Exited).
    Stop,
    /// Move the guest to another guest process, which awaits it:
    /// [`Response::Migrated`](super::Response::Migrated) when it is over. The guest runs on meanwhile,
    /// and stays when moving fails.
    Migrate(MigrateRequest),
    /// How far a migration under way has come:
    /// [`Response::Migrating`](super::Response::Migrating).
    MigrationProgress,
    /// Leave the guest where it is: [`Response::Ok`](super::Response::Ok), whether or not that is
    /// still possible; the answer to the [`Request::Migrate`] tells.
    CancelMigration,
    /// While the guest moves to another process of this host: the files that it is made of. Of a process
    /// that keeps the memory of a guest that was moved: that.
    /// [`Response::HandedOver`](super::Response::HandedOver), then the stream carries the files.
    HandOver,
    /// Have the next migration of this guest meet these faults, each of the form
    /// `source:STEP[@N]=FAULT`; they take the place of those asked for before:
    /// [`Response::Ok`](super::Response::Ok). Refused by a process that was not started for it.
    InjectFaults {
        /// The faults.
        faults: Vec<String>,
    },
    /// Run the guest only under this right; given before the guest is, and again with a higher epoch
    /// after one was relinquished: [`Response::Ok`](super::Response::Ok).
    Mandate(Mandate),
    /// The right holds for longer: [`Response::Ok`](super::Response::Ok).
    Prove(Proof),
    /// The guest can be started elsewhere from now on, or cannot any more:
    /// [`Response::Ok`](super::Response::Ok).
    SetLeased(bool),
    /// Somebody else may run the guest, under this later epoch: this copy is destroyed, unless it is
    /// of that epoch. [`Response::Ok`](super::Response::Ok).
    Revoke(Epoch),
    /// What became of the mandate: [`Response::Standing`](super::Response::Standing).
    Standing,
    /// Wait for a guest that is moved here: [`Response::Awaiting`](super::Response::Awaiting), and
    /// the guest runs as soon as it is here and may.
    Await(AwaitRequest),
    /// Move the guest as [`Request::Migrate`] does, and answer at once: [`Response::Ok`](super::Response::Ok).
    /// It is not handed over before [`Request::OpenWindow`]; [`Request::Standing`] tells how it goes.
    Leave {
        /// The migration, as the cluster knows it.
        migration: MigrationId,
        /// Where to, and how.
        request: MigrateRequest,
    },
    /// Let the migration under way hand the guest over: [`Response::Ok`](super::Response::Ok).
    OpenWindow,
    /// Forecast what [`Request::Migrate`] would do, by watching the guest and sending samples of its memory:
    /// [`Response::Forecast`](super::Response::Forecast). The guest stays, and the target goes on waiting for it
    /// with the same token, which only this process can use from then on.
    Forecast {
        /// The move.
        migrate: Box<MigrateRequest>,
        /// How long the guest is watched, in milliseconds: 100 to 3,600,000.
        watch_ms: u64,
    },
}

/// Where a guest is awaited.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AwaitRequest {
    /// The address and port to listen on (UDP); port 0 takes a free one.
    pub listen: String,
    /// How long somebody may take to come, in milliseconds.
    pub patience_ms: u64,
    /// What is different about the guest on this host.
    pub overrides: Overrides,
    /// Whether the guest is taken also when less memory is free than it may come to use.
    pub overcommit: bool,
}

/// Where a guest is to go, and how. A setting that is absent has its default.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The address and port that the target listens on.
    pub to: String,
    /// The token that the target gave out.
    pub token: String,
    /// The longest predicted blackout at which it switches, in milliseconds.
    pub downtime_limit_ms: Option<u64>,
    /// The longest it may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// To another process of this host, which takes the guest's memory over in place of a copy: the
    /// control socket of the guest's process, which that process connects to.
    pub local: Option<String>,
    /// The most bytes a second on the wire.
    pub bandwidth_cap: Option<u64>,
    /// Bulk streams.
    pub streams: Option<u16>,
    /// How the guest is moved.
    pub mode: Option<Mode>,
    /// What is done when it took the longest time.
    pub timeout_action: Option<TimeoutAction>,
    /// Percent of their time that is taken from vCPUs at first.
    pub throttle_start: Option<u8>,
    /// Percent more with each further step.
    pub throttle_step: Option<u8>,
    /// The most percent; with 0 nothing is taken.
    pub throttle_max: Option<u8>,
    /// How pages are compressed.
    pub compression: Option<Compression>,
    /// Whether all memory is compared at the switch.
    pub verify: bool,
    /// How long a link that was cut is made again after the handover, in milliseconds.
    pub recovery_window_ms: Option<u64>,
    /// How long the memory of a guest that was moved is kept for a quick way back, in milliseconds; 0
    /// for not at all.
    pub retain_ms: Option<u64>,
    /// Who asked, for the receipt.
    pub asked_by: String,
    /// Why, for the receipt.
    pub why: String,
}

/// What is done with a guest that was not moved in time.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It stays where it is.
    Cancel,
    /// It runs at the target at once, and its memory follows.
    PostCopy,
    /// It is paused for as long as the rest of its memory takes.
    Pause,
}

/// How pages are compressed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is fastest, by measurement.
    Auto,
    /// Not at all.
    Off,
    /// At this zstd level.
    Level(i8),
}

/// A console of a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// The 16550 serial port.
    Serial,
    /// The virtio console.
    Virtio,
}

/// What a restored guest has differently than the snapshot says. What is not named stays.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Disks at other paths.
    pub disks: Vec<DiskOverride>,
    /// Network devices on other taps.
    pub nets: Vec<NetOverride>,
    /// Another end of the serial port.
    pub serial: Option<SerialSpec>,
    /// Another end of the virtio console.
    pub console: Option<SerialSpec>,
}

/// A disk at another path.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DiskOverride {
    /// The [`DiskSpec::id`](crate::guest::DiskSpec::id) of the disk.
    pub id: String,
    /// Its path on this host.
    pub path: String,
}

/// A network device on another tap.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NetOverride {
    /// The [`NetSpec::id`](crate::guest::NetSpec::id) of the device.
    pub id: String,
    /// Its tap on this host.
    pub tap: String,
}
