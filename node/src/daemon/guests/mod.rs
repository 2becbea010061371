//! The guest processes of this node. Each has a directory, named after guest and epoch, and a warden
//! thread; they outlive the daemon, and the next one finds them again.

mod spec;
mod warden;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use godwit_control_plane::agent::{Doing, Found, Launch};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::process::{ConsoleKind, MigrateRequest};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::Notify;

use self::warden::{Beginning, Order, Shared, Warden};
use crate::guest_process::client::{Client, ConsoleStream};

/// The guest processes of this node.
pub(super) struct Guests {
    program: PathBuf,
    dir: PathBuf,
    /// The address that guests are awaited at.
    address: IpAddr,
    processes: Mutex<BTreeMap<(GuestId, Epoch), Process>>,
    changed: Arc<Notify>,
}

struct Process {
    dir: PathBuf,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

impl Guests {
    /// Finds the processes that are there already. `program` is what new ones run.
    ///
    /// # Errors
    /// The directory cannot be read: without a complete list nothing may be decided.
    pub(super) fn open(program: PathBuf, dir: PathBuf, address: IpAddr) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&dir)?;
        let guests = Arc::new(Self {
            program,
            dir: dir.clone(),
            address,
            processes: Mutex::default(),
            changed: Arc::default(),
        });
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let Some((guest, epoch)) = parse(&path) else {
                tracing::warn!(path = %path.display(), "this is no directory of a guest process");
                continue;
            };
            guests.begin(guest, epoch, true, Doing::Starting, Beginning::Adopt)?;
        }
        Ok(guests)
    }

    /// Told when something may have changed.
    pub(super) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// All processes, and what is known of them.
    pub(super) fn found(&self) -> Vec<Found> {
        let mut processes = self.processes();
        // One that was destroyed is gone when its directory is.
        processes.retain(|_, process| !process.shared.is_gone());
        let found = processes.values();
        found
            .map(|process| process.shared.known().found.clone())
            .collect()
    }

    /// Makes a process and boots the guest in it.
    pub(super) fn start(&self, launch: Box<Launch>) -> io::Result<()> {
        let (guest, epoch, leased) = (launch.guest, launch.epoch, launch.leased);
        self.begin(
            guest,
            epoch,
            leased,
            Doing::Starting,
            Beginning::Boot(launch),
        )
    }

    /// Makes a process that waits for the guest.
    pub(super) fn receive(&self, launch: Box<Launch>, migration: MigrationId) -> io::Result<()> {
        let (guest, epoch, leased) = (launch.guest, launch.epoch, launch.leased);
        let token = None;
        let doing = Doing::Receiving { migration, token };
        let beginning = Beginning::Receive(launch, migration, self.address);
        self.begin(guest, epoch, leased, doing, beginning)
    }

    fn begin(
        &self,
        guest: GuestId,
        epoch: Epoch,
        leased: bool,
        doing: Doing,
        beginning: Beginning,
    ) -> io::Result<()> {
        let dir = self.dir.join(name(guest, epoch));
        let shared = Shared::new(
            Found {
                guest,
                epoch,
                leased,
                doing,
                sending: None,
                dirty_pages_per_second: None,
                receipt: None,
            },
            self.changed.clone(),
        );
        let (sender, orders) = mpsc::channel();
        let warden = Warden {
            program: self.program.clone(),
            dir: dir.clone(),
            shared: shared.clone(),
            orders,
        };
        let process = Process {
            dir,
            shared,
            orders: sender,
        };
        let mut processes = self.processes();
        thread::Builder::new()
            .name(format!("warden {epoch}"))
            .spawn(move || warden.run(beginning))?;
        processes.insert((guest, epoch), process);
        Ok(())
    }

    /// The node's lease holds until `until`, of `CLOCK_BOOTTIME`: so may the guest run.
    pub(super) fn prove(&self, guest: GuestId, epoch: Epoch, until: Duration) {
        self.order(guest, epoch, Order::Prove(epoch, until));
    }

    pub(super) fn set_leased(&self, guest: GuestId, epoch: Epoch, leased: bool) {
        self.order(guest, epoch, Order::SetLeased(leased));
    }

    pub(super) fn revive(&self, guest: GuestId, from: Epoch, epoch: Epoch) {
        self.order(guest, from, Order::Revive(epoch));
    }

    pub(super) fn stop(&self, guest: GuestId, epoch: Epoch) {
        self.order(guest, epoch, Order::Stop);
    }

    /// Ends the process, whatever it does.
    pub(super) fn destroy(&self, guest: GuestId, epoch: Epoch) {
        self.each(guest, |found, process| {
            if found == epoch {
                // The thread may wait for a process that does not answer.
                if let Some(pidfd) = &process.shared.known().process {
                    let _ = pidfd_send_signal(pidfd, Signal::KILL);
                }
                let _ = process.orders.send(Order::Destroy);
            }
        });
    }

    pub(super) fn send(
        &self,
        guest: GuestId,
        epoch: Epoch,
        migration: MigrationId,
        token: String,
        request: MigrateRequest,
    ) {
        let request = Box::new(request);
        let mut order = Some(Order::Send {
            migration,
            token,
            request,
        });
        self.each(guest, |found, process| {
            // It may be asked for again before the process has said that it does it.
            if found == epoch
                && process.shared.begin_sending(migration)
                && let Some(order) = order.take()
            {
                let _ = process.orders.send(order);
            }
        });
    }

    pub(super) fn allow_switch(&self, guest: GuestId, migration: MigrationId) {
        self.of_migration(guest, migration, || Order::AllowSwitch);
    }

    pub(super) fn cancel_send(&self, guest: GuestId, migration: MigrationId) {
        self.of_migration(guest, migration, || Order::CancelSend);
    }

    /// How far a migration away from here is, JSON; `None` when none such is under way.
    pub(super) fn progress(&self, migration: MigrationId) -> Option<String> {
        let processes = self.processes();
        processes.values().find_map(|process| {
            let known = process.shared.known();
            let sending = known.found.sending.as_ref()?;
            (sending.migration == migration).then(|| known.progress.clone())?
        })
    }

    /// The receipts of migrations away from here that are over, each told once.
    pub(super) fn take_receipts(&self) -> Vec<(MigrationId, String)> {
        let processes = self.processes();
        let known = processes.values().map(|process| process.shared.known());
        known.filter_map(|mut known| known.receipt.take()).collect()
    }

    /// A console of the guest, which runs here.
    ///
    /// # Errors
    /// It does not run here, or what its process says.
    pub(super) fn console(
        &self,
        guest: GuestId,
        which: ConsoleKind,
    ) -> Result<ConsoleStream, CodedError> {
        let dir = {
            let processes = self.processes();
            let mut of_guest =
                processes.range((guest, Epoch::new(0))..=(guest, Epoch::new(u64::MAX)));
            of_guest.next_back().map(|(_, process)| process.dir.clone())
        };
        let dir = dir.ok_or_else(|| {
            CodedError::new(ErrorCode::WrongState, "the guest has no process here")
        })?;
        let client = Client::connect(&dir.join("guest.sock"));
        let attached = client.and_then(|client| client.attach_console(which));
        attached.map_err(|error| error.coded())
    }

    fn order(&self, guest: GuestId, epoch: Epoch, order: Order) {
        let mut order = Some(order);
        self.each(guest, |_, process| {
            if process.shared.known().found.epoch == epoch
                && let Some(order) = order.take()
            {
                // A warden that is gone has removed its process.
                let _ = process.orders.send(order);
            }
        });
    }

    fn of_migration(&self, guest: GuestId, migration: MigrationId, order: impl Fn() -> Order) {
        self.each(guest, |_, process| {
            let sends = {
                let known = process.shared.known();
                let sending = known.found.sending.as_ref();
                sending.is_some_and(|sending| sending.migration == migration)
            };
            if sends {
                let _ = process.orders.send(order());
            }
        });
    }

    /// The processes of a guest, with the epochs that they have now.
    fn each(&self, guest: GuestId, mut act: impl FnMut(Epoch, &Process)) {
        let processes = self.processes();
        for process in processes.values() {
            let (of, epoch) = {
                let known = process.shared.known();
                (known.found.guest, known.found.epoch)
            };
            if of == guest {
                act(epoch, process);
            }
        }
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<(GuestId, Epoch), Process>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory of a process: the guest's id without dashes, and the epoch that it was made for.
fn name(guest: GuestId, epoch: Epoch) -> String {
    let id = data_encoding::HEXLOWER.encode(guest.as_bytes());
    format!("{id}.{epoch}")
}

fn parse(path: &Path) -> Option<(GuestId, Epoch)> {
    let (id, epoch) = path.file_name()?.to_str()?.split_once('.')?;
    let bytes = data_encoding::HEXLOWER.decode(id.as_bytes()).ok()?;
    let guest = GuestId::from_bytes(bytes.try_into().ok()?);
    Some((guest, Epoch::new(epoch.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_names_its_guest_and_epoch() {
        let guest = GuestId::from_bytes([0xab; 16]);
        let path = Path::new("/x").join(name(guest, Epoch::new(17)));
        assert_eq!(parse(&path), Some((guest, Epoch::new(17))));
        for wrong in ["", "x", "ab.1", ".1", "lost+found"] {
            assert_eq!(parse(&Path::new("/x").join(wrong)), None);
        }
    }
}
