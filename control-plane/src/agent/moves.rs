//! A guest that is given away, or taken over.
//!
//! | what is so at the source | it does |
//! |---|---|
//! | the target is ready | begins to send |
//! | the process wants to switch | has the window opened; allows it once the target knows of it |
//! | the process kept the guest | says so: `SourceKept` |
//! | the process gave it up and lost sight of it, or is gone | says so: `SourceGone` |
//!
//! | what is so at the target | it does |
//! |---|---|
//! | nothing yet | makes a process; tells how to reach it |
//! | the process runs the guest | has the migration completed |
//! | the process never ran it and will not | says so: `TargetNeverRan`, or before the window `NotOpened` |
//! | the process is gone, or failed | says so: `TargetGone`, or before the window `NotOpened` |

use godwit_proto::cluster::{
    AbortCause, Command, DesiredGuest, MigrationCommand, Move, RunIntent, Window,
};
use godwit_proto::codes::{CodedError, ErrorCode};

use super::decide::{Look, gone, process_gone};
use super::{Action, Doing, End, Found, Sending, Stage};
use crate::ownership::Origin;

impl Look<'_> {
    pub(super) fn source(&mut self, desired: &DesiredGuest, moving: &Move, process: &Found) {
        let stage = process
            .sending
            .as_ref()
            .filter(|sending| sending.migration == moving.migration)
            .map(|sending| &sending.stage);
        match stage {
            Some(Stage::Relinquished {
                lost: Some(error), ..
            }) => {
                self.end_open(moving, AbortCause::SourceGone, error.clone());
                return;
            }
            // It died before the target had everything.
            Some(Stage::Relinquished { serving: true, .. })
                if matches!(process.doing, Doing::Ended(_)) =>
            {
                self.end_open(moving, AbortCause::SourceGone, process_gone());
                return;
            }
            Some(Stage::Relinquished { lost: None, .. }) => return,
            Some(Stage::Kept(error)) => {
                self.abort(moving, AbortCause::SourceKept, error.clone());
                return;
            }
            None if process.is_relinquished() => {
                // To an earlier target: what is here is stale.
                self.end_open(moving, AbortCause::SourceGone, process_gone());
                return;
            }
            Some(Stage::Copying | Stage::WantsWindow | Stage::MaySwitch) | None => {}
        }
        if let Doing::Ended(_) = process.doing {
            let error = CodedError::new(ErrorCode::WrongState, "the guest ended");
            self.abort(moving, AbortCause::SourceKept, error);
            return;
        }
        if desired.intent == RunIntent::Stopped {
            match stage {
                Some(_) => self.cancel(desired, moving),
                None => {
                    let error = CodedError::new(ErrorCode::Cancelled, "it is to be stopped");
                    self.abort(moving, AbortCause::SourceKept, error);
                }
            }
            return;
        }
        self.settle(desired, process);
        self.cancel_other(desired, process, Some(moving));
        match stage {
            None => self.begin_send(desired, moving, process),
            Some(Stage::WantsWindow) => self.open(desired, moving),
            _ => {}
        }
    }

    fn begin_send(&mut self, desired: &DesiredGuest, moving: &Move, process: &Found) {
        let is_free = process.sending.as_ref().is_none_or(Sending::is_over);
        let lives = matches!(process.doing, Doing::Running | Doing::Paused);
        if let Some(token) = &moving.token
            && is_free
            && lives
        {
            self.actions.push(Action::BeginSend {
                migration: moving.migration,
                guest: desired.id,
                epoch: desired.epoch,
                successor: moving.peer_epoch,
                token: token.clone(),
            });
        }
    }

    /// The window is opened while the guest runs, and used when the target knows (CLU-20).
    fn open(&mut self, desired: &DesiredGuest, moving: &Move) {
        let (migration, guest) = (moving.migration, desired.id);
        match moving.window {
            Window::Closed => {
                let open = MigrationCommand::OpenWindow { migration };
                self.propose(Command::Migration(open));
            }
            Window::Open if self.agent.informed.contains(&migration) => {
                self.actions.push(Action::AllowSwitch { migration, guest });
            }
            Window::Open => {}
        }
    }

    /// Cancels a migration that is not the one that is wanted.
    pub(super) fn cancel_other(
        &mut self,
        desired: &DesiredGuest,
        process: &Found,
        wanted: Option<&Move>,
    ) {
        let wanted = wanted.map(|moving| moving.migration);
        let other = process.sending.as_ref();
        if let Some(sending) = other
            && Some(sending.migration) != wanted
            && !sending.is_over()
        {
            self.actions.push(Action::CancelSend {
                migration: sending.migration,
                guest: desired.id,
            });
        }
    }

    fn cancel(&mut self, desired: &DesiredGuest, moving: &Move) {
        self.actions.push(Action::CancelSend {
            migration: moving.migration,
            guest: desired.id,
        });
    }

    pub(super) fn source_missing(&mut self, desired: &DesiredGuest, moving: &Move) {
        // One that was never begun will not be.
        if !self.was_begun(desired) && !self.spend(desired) {
            return;
        }
        match moving.window {
            Window::Closed => self.report(desired, None, gone()),
            Window::Open => self.abort(moving, AbortCause::SourceGone, process_gone()),
        }
    }

    pub(super) fn target(&mut self, desired: &DesiredGuest, moving: &Move, process: &Found) {
        match &process.doing {
            Doing::Receiving { token, .. } => {
                if let (Some(token), None, Window::Closed) = (token, &moving.token, moving.window) {
                    let ready = MigrationCommand::TargetReady {
                        migration: moving.migration,
                        token: token.clone(),
                    };
                    self.propose(Command::Migration(ready));
                }
            }
            // It cannot have run, however it ended.
            Doing::Ended(end) if moving.window == Window::Closed => {
                let error = match end {
                    End::NeverRan(error) | End::Failed(error) => error.clone(),
                    End::Stopped => process_gone(),
                };
                self.abort(moving, AbortCause::NotOpened, error);
            }
            Doing::Ended(End::NeverRan(error)) => {
                if self.spend(desired) {
                    self.abort(moving, AbortCause::TargetNeverRan, error.clone());
                }
            }
            // It died, and nobody knows when: before the handover, and the source has the guest; or
            // after it, and the guest is lost.
            Doing::Ended(End::Failed(error)) => {
                self.abort(moving, AbortCause::TargetGone, error.clone());
            }
            // It was handed over. If it was stopped since, that is told once it is this node's.
            Doing::Running | Doing::Paused | Doing::Ended(End::Stopped) => {
                if moving.window == Window::Open {
                    let complete = MigrationCommand::Complete {
                        migration: moving.migration,
                        epoch: desired.epoch,
                        receipt: process.receipt.clone(),
                    };
                    self.propose(Command::Migration(complete));
                }
            }
            Doing::Starting => {}
        }
    }

    pub(super) fn target_missing(&mut self, desired: &DesiredGuest, moving: &Move) {
        match (self.was_begun(desired), moving.window) {
            (true, Window::Closed) => self.abort(moving, AbortCause::NotOpened, process_gone()),
            // It may have run before it was gone.
            (true, Window::Open) => self.abort(moving, AbortCause::TargetGone, process_gone()),
            (false, Window::Closed) => {
                if self.begin(desired) {
                    let launch = self.launch(desired, Origin::Moved);
                    self.actions.push(Action::PrepareReceive {
                        migration: moving.migration,
                        source: moving.peer,
                        launch: Box::new(launch),
                    });
                }
            }
            (false, Window::Open) => {
                if self.spend(desired) {
                    self.abort(moving, AbortCause::TargetNeverRan, process_gone());
                }
            }
        }
    }

    /// Ends a migration for a reason that can only be there once the window is open.
    fn end_open(&mut self, moving: &Move, cause: AbortCause, error: CodedError) {
        if moving.window == Window::Open {
            self.abort(moving, cause, error);
        }
    }

    fn abort(&mut self, moving: &Move, cause: AbortCause, error: CodedError) {
        self.propose(Command::Migration(MigrationCommand::Abort {
            migration: moving.migration,
            cause,
            error,
        }));
    }
}

impl Sending {
    /// Whether nothing more comes of it.
    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Kept(_) | Stage::Relinquished { .. })
    }
}
