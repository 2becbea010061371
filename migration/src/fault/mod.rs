//! Faults on purpose: a migration that is to fail at a named step, to see that nothing is lost by it.
//!
//! A driver asks [`Faults`] before each of its machine's commands. Without a plan that is one look at
//! a `None`, some ten times in a migration and never for a page. With one, the fault strikes where the
//! plan says, once: the step fails in the way in which it fails by itself, or this side stands still,
//! or is cut off, or dies.
//!
//! # Refused
//! To decide who may do this: whoever makes the plan sees to it that nobody does so by accident.

mod plan;
mod step;

pub use plan::{Fault, Injection, PlanError};
pub use step::{OnError, Side, Step};

pub(crate) use step::Struck;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use godwit_proto::codes::{CodedError, ErrorCode};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::transport::Cable;

/// The faults of one migration, at one side. None by default.
#[derive(Clone, Debug, Default)]
pub struct Faults(Option<Arc<Plan>>);

#[derive(Debug)]
struct Plan {
    awaited: Vec<Awaited>,
    cable: Cable,
}

/// A fault, and how often its step was taken.
#[derive(Debug)]
struct Awaited {
    injection: Injection,
    taken: AtomicU32,
}

impl Faults {
    /// All of these, each once.
    #[must_use]
    pub fn new(injections: Vec<Injection>) -> Self {
        if injections.is_empty() {
            return Self::default();
        }
        let awaited = injections.into_iter().map(|injection| Awaited {
            injection,
            taken: AtomicU32::new(0),
        });
        Self(Some(Arc::new(Plan {
            awaited: awaited.collect(),
            cable: Cable::default(),
        })))
    }

    /// What the link of the migration has to go over, so that it can be cut.
    #[must_use]
    pub fn cable(&self) -> Option<Cable> {
        self.0.as_ref().map(|plan| plan.cable.clone())
    }

    /// Those whose step was not taken often enough.
    #[must_use]
    pub fn missed(&self) -> Vec<Injection> {
        let awaited = self.0.iter().flat_map(|plan| &plan.awaited);
        awaited
            .filter(|a| a.taken.load(Ordering::Relaxed) < a.injection.occurrence.get())
            .map(|awaited| awaited.injection)
            .collect()
    }

    /// Lets a fault strike that is due before `command`. What is returned is to be carried out; when
    /// nothing is, the command has failed and the machine was told, if it is ever told.
    pub(crate) async fn before<C: Struck>(&self, command: C, tell: impl Fn(C::Event)) -> Option<C> {
        if self.0.is_none() {
            return Some(command);
        }
        let Some(step) = command.step() else {
            return Some(command);
        };
        for strike in self.due(step) {
            if strike.fault == Fault::Cancel {
                tell(C::CANCELLED);
            } else if let Err(error) = self.strike(strike).await {
                if let Some(event) = command.failed(error) {
                    tell(event);
                }
                return None;
            }
        }
        Some(command)
    }

    /// Lets a fault strike that is due at `step`.
    ///
    /// # Errors
    /// The step is to fail.
    pub(crate) async fn at(&self, step: Step) -> Result<(), CodedError> {
        for strike in self.due(step) {
            self.strike(strike).await?;
        }
        Ok(())
    }

    /// What strikes at `step`, which is taken once more.
    fn due(&self, step: Step) -> Vec<Injection> {
        let awaited = self.0.iter().flat_map(|plan| &plan.awaited);
        let taken = awaited.filter(|a| a.injection.step == step).filter(|a| {
            let before = a.taken.fetch_add(1, Ordering::Relaxed);
            before.checked_add(1) == Some(a.injection.occurrence.get())
        });
        let due: Vec<_> = taken.map(|awaited| awaited.injection).collect();
        for injection in &due {
            tracing::warn!(fault = %injection, "a fault is injected");
        }
        due
    }

    async fn strike(&self, injection: Injection) -> Result<(), CodedError> {
        let failed = |code, errno: Errno| {
            let error = io::Error::from(errno);
            let mut coded = CodedError::new(code, format!("injected at {}", injection.step));
            coded.causes.push(error.to_string());
            Err(coded)
        };
        match injection.fault {
            Fault::Error => Err(CodedError::new(
                ErrorCode::Other,
                format!("injected at {}", injection.step),
            )),
            Fault::DiskFull => failed(ErrorCode::DiskIo, Errno::NOSPC),
            Fault::OutOfMemory => failed(ErrorCode::Memory, Errno::NOMEM),
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Fault::Cut(time) => {
                if let Some(plan) = &self.0 {
                    plan.cable.cut(time);
                }
                Ok(())
            }
            // Told by who knows the machine.
            Fault::Cancel => Ok(()),
            Fault::Kill => {
                let _ = kill_process(getpid(), Signal::KILL);
                // Until the kernel has got round to it.
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::source::{Command, Event, Step as Failing};

    fn faults(texts: &[&str]) -> Faults {
        Faults::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[tokio::test]
    async fn a_fault_strikes_the_step_that_it_names_and_only_once() {
        let faults = faults(&["source:collect-dirty@2=error"]);
        let told = RefCell::new(Vec::new());
        let commands = [
            Command::StartDirtyLog,
            Command::CollectDirty,
            Command::CollectDirty,
            Command::CollectDirty,
        ];
        let mut carried_out = Vec::new();
        for command in commands {
            let left = faults
                .before(command, |event| told.borrow_mut().push(event))
                .await;
            carried_out.push(left.is_some());
        }
        assert_eq!(carried_out, [true, true, false, true]);
        let [Event::Failed { step, error }] = &told.borrow()[..] else {
            panic!("{told:?}");
        };
        assert_eq!(*step, Failing::CollectDirty);
        assert!(error.to_string().contains("source:collect-dirty"));
        assert!(faults.missed().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_step_is_taken_after_the_machine_has_heard_of_it() {
        let faults = faults(&["source:pause-guest=cancel"]);
        let told = RefCell::new(Vec::new());
        let tell = |event| told.borrow_mut().push(event);
        let left = faults.before(Command::PauseGuest, tell).await;
        assert_eq!(left, Some(Command::PauseGuest));
        assert!(matches!(told.borrow()[..], [Event::Cancel]));
    }

    #[tokio::test]
    async fn faults_whose_step_never_came_are_known() {
        let faults = faults(&["source:pause-guest=kill", "source:finish=delay:0ms"]);
        let finish = faults.at(Step::SourceFinish).await;
        assert_eq!(finish, Ok(()));
        let missed = faults.missed();
        assert_eq!(missed.len(), 1);
        assert_eq!(missed[0].step, Step::PauseGuest);
    }

    #[tokio::test]
    async fn a_step_without_room_or_memory_fails_with_the_kernels_words() {
        let faults = faults(&[
            "target:prepare=out-of-memory",
            "target:restore-state=disk-full",
        ]);
        let error = faults.at(Step::Prepare).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Memory);
        assert!(error.to_string().contains("Cannot allocate"), "{error}");
        let error = faults.at(Step::RestoreState).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DiskIo);
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    #[test]
    fn what_is_told_of_a_failed_step_is_as_the_list_says() {
        use crate::target;
        let error = || CodedError::new(ErrorCode::Other, "failed");
        let told = |step: Step, is_told: bool| {
            let expected = matches!(step.on_error(), OnError::Told | OnError::LinkLost);
            assert_eq!(is_told, expected, "{step}");
        };
        for command in [
            Command::StartDirtyLog,
            Command::CollectDirty,
            Command::StopSending,
            Command::SetThrottle(1),
            Command::OpenWindow,
            Command::CloseWindow,
            Command::PauseGuest,
            Command::SaveState,
            Command::ResumeGuest,
            Command::StopDirtyLog,
            Command::Redial,
            Command::FreeMemory,
            Command::CancelTooLate,
        ] {
            let step = command.step().unwrap();
            assert_eq!(step.side(), Side::Source);
            told(step, command.failed(error()).is_some());
        }
        for command in [
            target::Command::RestoreState(Vec::new()),
            target::Command::CheckDigests(Vec::new()),
            target::Command::AnnounceNetwork,
            target::Command::Discard,
            target::Command::CancelTooLate,
        ] {
            let step = command.step().unwrap();
            assert_eq!(step.side(), Side::Target);
            told(step, command.failed(error()).is_some());
        }
    }
}
