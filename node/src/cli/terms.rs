//! On what terms a guest is moved, as options.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use godwit_proto::migrate::Mode;
use godwit_proto::process::{Compression, MigrateRequest, TimeoutAction};

use super::guest_args::Size;

/// The terms of a move.
#[derive(Args, Clone, Debug)]
pub(super) struct Terms {
    /// Longest predicted blackout at which to switch, in milliseconds [default: 300]
    #[arg(long, value_name = "MS")]
    downtime_limit: Option<u64>,
    /// What moves first: all memory (pre-copy), the guest (post-copy), or memory for as long as that
    /// gets anywhere (hybrid); or to another process of this host without copying memory (local)
    /// [default: hybrid]
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
    /// Longest time until the guest is to run at the target, in seconds [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// What is done then: the guest stays, its memory follows it, or it is paused for the rest
    /// [default: cancel]
    #[arg(long, value_enum, value_name = "ACTION")]
    timeout_action: Option<TimeoutActionArg>,
    /// In pre-copy that does not converge: percent of their time first taken from vCPUs [default: 20]
    #[arg(long, value_name = "PERCENT")]
    throttle_start: Option<u8>,
    /// Percent more with each step [default: 10]
    #[arg(long, value_name = "PERCENT")]
    throttle_step: Option<u8>,
    /// The most percent; 0 for never [default: 99]
    #[arg(long, value_name = "PERCENT")]
    throttle_max: Option<u8>,
    /// Compression of pages: auto, off, or a zstd level from -7 to 19 [default: auto]
    #[arg(long, value_name = "HOW", allow_hyphen_values = true)]
    compression: Option<CompressionArg>,
    /// Compare all memory while the guest is paused, and stay where it is when a page differs
    #[arg(long)]
    verify: bool,
    /// How long a link that is cut after the handover is made again, in seconds [default: 300]
    #[arg(long, value_name = "SECONDS")]
    recovery_window: Option<u64>,
    /// The most bytes a second on the wire: bytes, or with K, M or G
    #[arg(long, value_name = "SIZE")]
    bandwidth: Option<Size>,
    /// Streams for pages, 1 to 16 [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    streams: Option<u16>,
}

/// How a guest is moved.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum ModeArg {
    PreCopy,
    PostCopy,
    Hybrid,
    Local,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::PreCopy => Self::PreCopy,
            ModeArg::PostCopy => Self::PostCopy,
            ModeArg::Hybrid => Self::Hybrid,
            ModeArg::Local => Self::Local,
        }
    }
}

/// What is done when the time is up.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum TimeoutActionArg {
    Cancel,
    PostCopy,
    Pause,
}

impl From<TimeoutActionArg> for TimeoutAction {
    fn from(action: TimeoutActionArg) -> Self {
        match action {
            TimeoutActionArg::Cancel => Self::Cancel,
            TimeoutActionArg::PostCopy => Self::PostCopy,
            TimeoutActionArg::Pause => Self::Pause,
        }
    }
}

/// `auto`, `off` or a level.
#[derive(Clone, Copy, Debug)]
struct CompressionArg(Compression);

impl FromStr for CompressionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(match text {
            "auto" => Compression::Auto,
            "off" => Compression::Off,
            level => Compression::Level(
                level
                    .parse()
                    .map_err(|_| "want auto, off, or a level from -7 to 19".to_owned())?,
            ),
        }))
    }
}

impl Terms {
    /// A move on these terms, to nowhere yet.
    pub(super) fn request(&self) -> MigrateRequest {
        let ms = |seconds: Option<u64>| seconds.map(|seconds| seconds.saturating_mul(1000));
        MigrateRequest {
            downtime_limit_ms: self.downtime_limit,
            timeout_ms: ms(self.timeout),
            bandwidth_cap: self.bandwidth.as_ref().map(|size| size.0),
            streams: self.streams,
            mode: self.mode.map(Mode::from),
            timeout_action: self.timeout_action.map(TimeoutAction::from),
            throttle_start: self.throttle_start,
            throttle_step: self.throttle_step,
            throttle_max: self.throttle_max,
            compression: self.compression.map(|CompressionArg(how)| how),
            verify: self.verify,
            recovery_window_ms: ms(self.recovery_window),
            ..MigrateRequest::default()
        }
    }

    /// Whether the guest is to stay on this host.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.mode, Some(ModeArg::Local))
    }
}
