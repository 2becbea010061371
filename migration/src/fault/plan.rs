//! What is to go wrong, and where: `SIDE:STEP[@N]=FAULT`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use super::step::{OnError, Step};

/// The longest delay or cut that can be asked for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step fails.
    Error,
    /// The step fails as when a disk has no room.
    DiskFull,
    /// The step fails as when there is no memory.
    OutOfMemory,
    /// Whoever asked for the migration wants it to stop.
    Cancel,
    /// This side stands still for so long, then takes the step.
    Delay(Duration),
    /// Nothing goes out or comes in any more, and nobody is told; for so long, or for good.
    Cut(Option<Duration>),
    /// The process kills itself.
    Kill,
}

impl Fault {
    /// What can be asked for, with the arguments there are.
    pub const FORMS: &[&str] = &[
        "error",
        "disk-full",
        "out-of-memory",
        "cancel",
        "delay:TIME",
        "cut[:TIME]",
        "kill",
    ];

    /// Whether the step itself fails.
    #[must_use]
    pub const fn fails_the_step(self) -> bool {
        matches!(self, Self::Error | Self::DiskFull | Self::OutOfMemory)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("error"),
            Self::DiskFull => f.write_str("disk-full"),
            Self::OutOfMemory => f.write_str("out-of-memory"),
            Self::Cancel => f.write_str("cancel"),
            Self::Delay(time) => write!(f, "delay:{}ms", time.as_millis()),
            Self::Cut(None) => f.write_str("cut"),
            Self::Cut(Some(time)) => write!(f, "cut:{}ms", time.as_millis()),
            Self::Kill => f.write_str("kill"),
        }
    }
}

impl FromStr for Fault {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        match (name, argument) {
            ("error", None) => Ok(Self::Error),
            ("disk-full", None) => Ok(Self::DiskFull),
            ("out-of-memory", None) => Ok(Self::OutOfMemory),
            ("cancel", None) => Ok(Self::Cancel),
            ("delay", Some(time)) => Ok(Self::Delay(duration(time)?)),
            ("cut", time) => Ok(Self::Cut(time.map(duration).transpose()?)),
            ("kill", None) => Ok(Self::Kill),
            _ => Err(PlanError::NoSuchFault {
                fault: text.to_owned(),
            }),
        }
    }
}

/// A number with `ms` or `s` behind it.
fn duration(text: &str) -> Result<Duration, PlanError> {
    let parsed = match text.strip_suffix("ms") {
        Some(number) => number.parse().ok().map(Duration::from_millis),
        None => text
            .strip_suffix('s')
            .and_then(|number| number.parse().ok())
            .map(Duration::from_secs),
    };
    parsed
        .filter(|&time| time <= LONGEST)
        .ok_or_else(|| PlanError::NoSuchTime {
            time: text.to_owned(),
        })
}

/// One fault, to strike once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Where.
    pub step: Step,
    /// The how-manieth time that this step is taken, from 1.
    pub occurrence: NonZeroU32,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}={}", self.step, self.occurrence, self.fault)
    }
}

impl FromStr for Injection {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (step, fault) = text.split_once('=').ok_or_else(|| PlanError::Form {
            text: text.to_owned(),
        })?;
        let (step, occurrence) = match step.split_once('@') {
            Some((step, number)) => (step, number.parse().ok()),
            None => (step, Some(NonZeroU32::MIN)),
        };
        let injection = Self {
            step: step.parse()?,
            occurrence: occurrence.ok_or_else(|| PlanError::Form {
                text: text.to_owned(),
            })?,
            fault: fault.parse()?,
        };
        if injection.fault.fails_the_step() && injection.step.on_error() == OnError::Never {
            return Err(PlanError::CannotFail {
                step: injection.step,
            });
        }
        let beside = matches!(injection.step, Step::ApplyBatch | Step::InstallPages);
        if injection.fault == Fault::Cancel && beside {
            return Err(PlanError::NotThere {
                step: injection.step,
            });
        }
        Ok(injection)
    }
}

/// Why a fault cannot be injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It is not of this form.
    #[error("{text:?} is not of the form SIDE:STEP[@N]=FAULT")]
    Form {
        /// What was given.
        text: String,
    },
    /// No machine takes this step.
    #[error("there is no step {step:?}")]
    NoSuchStep {
        /// What was given.
        step: String,
    },
    /// There is no such fault.
    #[error("there is no fault {fault:?}; there are {}", Fault::FORMS.join(", "))]
    NoSuchFault {
        /// What was given.
        fault: String,
    },
    /// Neither milliseconds nor seconds, or more than a day.
    #[error("{time:?} is no time such as 500ms or 2s, of a day at most")]
    NoSuchTime {
        /// What was given.
        time: String,
    },
    /// The step is done beside the machine, which cannot be cancelled there.
    #[error("a cancel cannot come at {step}; use a step before or after it")]
    NotThere {
        /// Which.
        step: Step,
    },
    /// The step has no way to fail.
    #[error("{step} cannot fail; it can be delayed, the link cut there, the process killed")]
    CannotFail {
        /// Which.
        step: Step,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_one_name_by_which_it_is_found() {
        for step in Step::ALL {
            assert_eq!(step.to_string().parse(), Ok(*step));
        }
    }

    #[test]
    fn what_is_written_out_is_read_again() {
        for text in [
            "source:pause-guest@1=error",
            "source:send-round@3=delay:500ms",
            "target:restore-state@1=cut",
            "target:apply-batch@2=cut:1500ms",
            "target:prepare@1=out-of-memory",
            "source:save-state@1=disk-full",
            "source:save-state@1=cancel",
            "target:finish@1=kill",
        ] {
            let injection: Injection = text.parse().unwrap();
            assert_eq!(injection.to_string(), text);
        }
        let short: Injection = "source:finish=delay:2s".parse().unwrap();
        assert_eq!(short.to_string(), "source:finish@1=delay:2000ms");
    }

    #[test]
    fn what_makes_no_sense_is_refused_for_its_reason() {
        let error = |text: &str| text.parse::<Injection>().unwrap_err();
        for text in ["", "kill", "source:finish@0=kill", "source:finish@x=kill"] {
            assert!(matches!(error(text), PlanError::Form { .. }), "{text}");
        }
        for text in ["=kill", "finish=kill", "host:finish=kill", "source:=kill"] {
            assert!(
                matches!(error(text), PlanError::NoSuchStep { .. }),
                "{text}"
            );
        }
        for fault in ["", "kill:1s", "delay", "explode"] {
            let text = format!("source:finish={fault}");
            assert!(
                matches!(error(&text), PlanError::NoSuchFault { .. }),
                "{text}"
            );
        }
        for time in ["", "5", "-1s", "ms", "99999999999999999999s", "86401s"] {
            let text = format!("source:finish=delay:{time}");
            assert!(
                matches!(error(&text), PlanError::NoSuchTime { .. }),
                "{text}"
            );
        }
        assert_eq!(
            error("target:apply-batch=cancel"),
            PlanError::NotThere {
                step: Step::ApplyBatch
            }
        );
        assert_eq!(
            error("target:commit=error"),
            PlanError::CannotFail { step: Step::Commit }
        );
    }
}
