//! What a user can set about a migration, with the defaults that users know.

use std::time::Duration;

use godwit_proto::migrate::{MAX_STREAMS, Mode};

use crate::source::MAX_REQUEST_PAGES;

/// Settings of one migration. Fields are free to change; [`Options::check`] says what is wrong with
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How the guest is moved; hybrid.
    pub mode: Mode,
    /// The longest blackout that a switch may be predicted to have; 300 ms.
    pub downtime_limit: Duration,
    /// From the offer to the switch; 3600 s.
    pub timeout: Duration,
    /// What is done then.
    pub timeout_action: TimeoutAction,
    /// The most bytes a second on the wire; no cap.
    pub bandwidth_cap: Option<u64>,
    /// How vCPUs are slowed in [`Mode::PreCopy`].
    pub throttle: Throttle,
    /// Bulk streams; 4.
    pub streams: u16,
    /// Compression of pages.
    pub compression: Compression,
    /// Pages that the target can only install together: as many as a page of its host has; 1.
    pub unit_pages: u64,
    /// Whether all memory is compared at the switch; no.
    pub compare_memory: bool,
    /// How long the target may take to build the guest; 60 s.
    pub prepare_timeout: Duration,
    /// How long a paused guest may wait for the target before the source resumes it; 10 s.
    pub switch_timeout: Duration,
    /// How long a cut link is redialled after the source relinquished; 300 s.
    pub recovery_window: Duration,
}

/// What is done with a guest that has not switched by [`Options::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It stays where it is.
    Cancel,
    /// It switches, and its memory follows.
    PostCopy,
    /// It is paused for as long as the last pages take.
    Pause,
}

/// How vCPUs are slowed, in percent of their time taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// The first step; 20.
    pub start: u8,
    /// Each further step; 10.
    pub step: u8,
    /// The last; 99. With 0 nothing is throttled.
    pub max: u8,
}

/// Compression of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// By measurement of link and CPU.
    Auto,
    /// None.
    Off,
    /// This zstd level, -7 to 19.
    Level(i8),
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {found}, want {wanted}")]
pub struct OptionsError {
    /// The setting.
    pub setting: &'static str,
    /// What it is.
    pub found: String,
    /// What it may be.
    pub wanted: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Hybrid,
            downtime_limit: Duration::from_millis(300),
            timeout: Duration::from_secs(3600),
            timeout_action: TimeoutAction::Cancel,
            bandwidth_cap: None,
            throttle: Throttle {
                start: 20,
                step: 10,
                max: 99,
            },
            streams: 4,
            compression: Compression::Auto,
            unit_pages: 1,
            compare_memory: false,
            prepare_timeout: Duration::from_secs(60),
            switch_timeout: Duration::from_secs(10),
            recovery_window: Duration::from_secs(300),
        }
    }
}

impl Options {
    /// Says everything that is wrong.
    ///
    /// # Errors
    /// One for each setting.
    pub fn check(&self) -> Result<(), Vec<OptionsError>> {
        let mut wrong = Vec::new();
        let mut want = |right: bool, setting, found: String, wanted| {
            if !right {
                wrong.push(OptionsError {
                    setting,
                    found,
                    wanted,
                });
            }
        };
        let Throttle { start, step, max } = self.throttle;
        let ms = |time: Duration| format!("{} ms", time.as_millis());
        want(
            (1..=60_000).contains(&self.downtime_limit.as_millis()),
            "downtime limit",
            ms(self.downtime_limit),
            "1 ms to 60 s",
        );
        for (setting, time) in [
            ("timeout", self.timeout),
            ("prepare timeout", self.prepare_timeout),
            ("switch timeout", self.switch_timeout),
            ("recovery window", self.recovery_window),
        ] {
            want(
                (1_000..=7 * 86_400_000).contains(&time.as_millis()),
                setting,
                ms(time),
                "1 s to 7 days",
            );
        }
        want(
            self.bandwidth_cap.is_none_or(|cap| cap >= 1 << 16),
            "bandwidth cap",
            format!("{} B/s", self.bandwidth_cap.unwrap_or_default()),
            "64 KiB/s or more",
        );
        want(max <= 99, "throttle max", max.to_string(), "0 to 99 %");
        want(
            max == 0 || (1..=max).contains(&start),
            "throttle start",
            start.to_string(),
            "1 % to the maximum",
        );
        want(
            max == 0 || step >= 1,
            "throttle step",
            step.to_string(),
            "1 % or more",
        );
        want(
            (1..=MAX_STREAMS).contains(&self.streams.into()),
            "streams",
            self.streams.to_string(),
            "1 to 64",
        );
        want(
            self.unit_pages.is_power_of_two() && self.unit_pages <= MAX_REQUEST_PAGES,
            "unit of pages",
            self.unit_pages.to_string(),
            "a power of two up to 512",
        );
        if let Compression::Level(level) = self.compression {
            want(
                (-7..=19).contains(&level),
                "compression level",
                level.to_string(),
                "-7 to 19",
            );
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_that_users_know_and_valid() {
        let options = Options::default();
        assert_eq!(options.check(), Ok(()));
        assert_eq!(options.downtime_limit, Duration::from_millis(300));
        assert_eq!(options.throttle.start, 20);
        assert_eq!(options.throttle.step, 10);
        assert_eq!(options.throttle.max, 99);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let options = Options {
            downtime_limit: Duration::ZERO,
            timeout: Duration::ZERO,
            bandwidth_cap: Some(1),
            throttle: Throttle {
                start: 0,
                step: 0,
                max: 100,
            },
            streams: 65,
            compression: Compression::Level(20),
            ..Options::default()
        };
        let wrong = options.check().unwrap_err();
        let settings: Vec<_> = wrong.iter().map(|error| error.setting).collect();
        assert_eq!(
            settings,
            [
                "downtime limit",
                "timeout",
                "bandwidth cap",
                "throttle max",
                "throttle start",
                "throttle step",
                "streams",
                "compression level"
            ]
        );
        assert_eq!(wrong[6].to_string(), "streams is 65, want 1 to 64");
    }

    #[test]
    fn without_throttling_its_steps_do_not_matter() {
        let throttle = Throttle {
            start: 0,
            step: 0,
            max: 0,
        };
        let options = Options {
            throttle,
            ..Options::default()
        };
        assert_eq!(options.check(), Ok(()));
    }
}
