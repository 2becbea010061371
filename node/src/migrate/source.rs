//! Giving a guest away.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use godwit_migration::driver::{self, Controls, SourceGuest, Way};
use godwit_migration::fault::Faults;
use godwit_migration::forecast::Forecast;
use godwit_migration::options::{self, Options};
use godwit_migration::report::Receipt;
use godwit_migration::source::Request;
use godwit_migration::transport::{SourceLink, Token, Tuning};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::migrate::{DigestMode, Mode, Offer};
use godwit_proto::process::{self, MigrateRequest};
use godwit_proto::record::Record;
use godwit_vmm::guest::Guest;

use super::ports::unit_pages;
use super::{Acquaintances, Arrived, GuestPort, LogPort, MemoryPort, fault, fit, runtime};
use crate::guest_process::mandate::Holder;

/// How long a guest may be watched for a forecast.
const WATCH: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// The most bulk streams of a link.
const MAX_STREAMS: u16 = 16;

/// On whose behalf a guest is given away.
pub struct Leaver {
    /// The migration, if a cluster knows it.
    pub id: Option<MigrationId>,
    /// The right under which the guest runs here.
    pub holder: Arc<Holder>,
}

/// Moves `guest` to where `request` says, and returns the receipt. If that is where it came from, as `arrived`
/// tells, pages that are as they were then may not have to be sent.
///
/// # Errors
/// The request makes no sense, or the target was not reached. The guest runs on then.
pub fn move_guest(
    guest: Arc<Guest>,
    request: &MigrateRequest,
    leaver: Leaver,
    arrived: Option<Arrived>,
    controls: Controls,
    known: &Mutex<Acquaintances>,
) -> Result<Receipt, CodedError> {
    let plan = Plan::of(guest, request, leaver, arrived, &controls.faults, known)?;
    let asked = Request {
        asked_by: request.asked_by.clone(),
        why: request.why.clone(),
    };
    runtime()?.block_on(async {
        let link = plan.connect().await?;
        let faults = controls.faults.clone();
        let Plan {
            way,
            ports,
            offer,
            options,
        } = plan;
        let receipt = driver::migrate(link, way, ports, offer, options, asked, controls).await;
        fault::report_missed(&faults);
        Ok(receipt)
    })
}

/// Forecasts the move of `guest` to where `request` says, watching it for about `watch`.
///
/// # Errors
/// As [`move_guest`]; every reason for which the target does not take the guest, as one error.
pub fn forecast(
    guest: Arc<Guest>,
    request: &MigrateRequest,
    watch: Duration,
    leaver: Leaver,
    controls: Controls,
    known: &Mutex<Acquaintances>,
) -> Result<Forecast, CodedError> {
    if !WATCH.contains(&watch) {
        let text = format!("a guest is watched for 100 ms to 1 h, not {watch:?}");
        return Err(CodedError::new(ErrorCode::Usage, text));
    }
    if request.mode == Some(Mode::Local) {
        let text = "a move within the host copies no memory: there is nothing to forecast";
        return Err(CodedError::new(ErrorCode::Usage, text));
    }
    // What is kept there of the guest is for the move itself.
    let plan = Plan::of(guest, request, leaver, None, &controls.faults, known)?;
    runtime()?.block_on(async {
        let link = plan.connect().await?;
        let faults = controls.faults.clone();
        let Plan {
            way,
            ports,
            offer,
            options,
        } = plan;
        let forecast = driver::forecast(link, way, ports, offer, options, watch, controls).await;
        fault::report_missed(&faults);
        forecast.map_err(|reasons| one_of(&reasons))
    })
}

/// All of `reasons`, with the code of the first.
fn one_of(reasons: &[CodedError]) -> CodedError {
    let code = reasons.first().map_or(ErrorCode::Other, CodedError::code);
    let texts: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    CodedError::new(code, format!("there is no forecast: {}", texts.join("; ")))
}

/// A move that makes sense so far.
struct Plan {
    way: Way,
    ports: SourceGuest,
    offer: Offer,
    options: Options,
}

impl Plan {
    fn of(
        guest: Arc<Guest>,
        request: &MigrateRequest,
        leaver: Leaver,
        arrived: Option<Arrived>,
        faults: &Faults,
        known: &Mutex<Acquaintances>,
    ) -> Result<Self, CodedError> {
        let usage = |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::Usage, error);
        let token: Token = request
            .token
            .trim()
            .parse()
            .map_err(|error| usage(&error))?;
        let address = resolve(&request.to)?;
        let options = options(&guest, request);
        options.check().map_err(|wrong| {
            let all: Vec<_> = wrong.iter().map(ToString::to_string).collect();
            CodedError::new(ErrorCode::Usage, all.join("; "))
        })?;
        // Pages that a lazily restored guest has not read yet are not what they seem.
        guest.complete_memory().map_err(|error| error.coded())?;
        if options.mode == Mode::Local && request.local.is_none() {
            let text = "a move within the host needs the control socket of the guest's process";
            return Err(CodedError::new(ErrorCode::Usage, text));
        }
        let arrived = arrived.filter(|_| options.mode != Mode::Local);
        let offer = Offer {
            local: request.local.clone(),
            retained: arrived.as_ref().map(Arrived::retained),
            ..offer(&guest, &options, &leaver)?
        };
        let tuning = Tuning {
            bulk_streams: options.streams as u8,
            bandwidth_cap: options.bandwidth_cap,
            cable: faults.cable(),
            ..Tuning::default()
        };
        let dialer = Acquaintances::dialer(known, token, tuning);
        let throttled = guest.clone();
        Ok(Self {
            way: Way {
                dialer: Arc::new(dialer.map_err(|error| unreachable(&error))?),
                address,
            },
            ports: SourceGuest {
                memory: Arc::new(MemoryPort::new(&guest)),
                log: Arc::new(LogPort::new(&guest)),
                had: arrived.map(|arrived| arrived.digests),
                vcpus: guest.spec().vcpus as usize,
                throttle: Arc::new(move |shares| {
                    let mut shares = shares.iter().enumerate();
                    shares.try_for_each(|(index, &share)| Ok(throttled.throttle(index, share)?))
                }),
                guest: Arc::new(GuestPort::leaving(guest, leaver.holder)),
            },
            offer,
            options,
        })
    }

    async fn connect(&self) -> Result<SourceLink, CodedError> {
        let opened = self.way.dialer.open(self.way.address).await;
        let mut link = opened.map_err(|error| unreachable(&error))?;
        driver::settle(&mut link.control).await?;
        Ok(link)
    }
}

fn unreachable(error: &dyn std::error::Error) -> CodedError {
    CodedError::from_error(ErrorCode::PeerProtocol, error)
        .with_fix("is `godwit receive` waiting there, and is the token its own?")
}

fn resolve(to: &str) -> Result<SocketAddr, CodedError> {
    let unknown = |why: String| {
        CodedError::new(
            ErrorCode::Usage,
            format!("cannot find the target {to:?}: {why}"),
        )
        .with_fix("give HOST:PORT")
    };
    let mut addresses = to
        .to_socket_addrs()
        .map_err(|error| unknown(error.to_string()))?;
    addresses
        .next()
        .ok_or_else(|| unknown("it has no address".into()))
}

fn options(guest: &Guest, request: &MigrateRequest) -> Options {
    let default = Options::default();
    let milliseconds = |asked: Option<u64>, default| asked.map_or(default, Duration::from_millis);
    let throttle = default.throttle;
    Options {
        mode: request.mode.unwrap_or(default.mode),
        downtime_limit: milliseconds(request.downtime_limit_ms, default.downtime_limit),
        timeout: milliseconds(request.timeout_ms, default.timeout),
        timeout_action: match request.timeout_action {
            None => default.timeout_action,
            Some(process::TimeoutAction::Cancel) => options::TimeoutAction::Cancel,
            Some(process::TimeoutAction::PostCopy) => options::TimeoutAction::PostCopy,
            Some(process::TimeoutAction::Pause) => options::TimeoutAction::Pause,
        },
        bandwidth_cap: request.bandwidth_cap,
        throttle: options::Throttle {
            start: request.throttle_start.unwrap_or(throttle.start),
            step: request.throttle_step.unwrap_or(throttle.step),
            max: request.throttle_max.unwrap_or(throttle.max),
        },
        streams: request.streams.unwrap_or(default.streams).min(MAX_STREAMS),
        compression: match request.compression {
            None => default.compression,
            Some(process::Compression::Auto) => options::Compression::Auto,
            Some(process::Compression::Off) => options::Compression::Off,
            Some(process::Compression::Level(level)) => options::Compression::Level(level),
        },
        unit_pages: unit_pages(guest),
        compare_memory: request.verify,
        recovery_window: milliseconds(request.recovery_window_ms, default.recovery_window),
        ..default
    }
}

fn offer(guest: &Guest, options: &Options, leaver: &Leaver) -> Result<Offer, CodedError> {
    let broken = |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::Other, error);
    let spec = guest.spec();
    let mandate = leaver.holder.mandate();
    Ok(Offer {
        migration: match leaver.id {
            Some(id) => id,
            None => MigrationId::from_bytes(random()?),
        },
        // Without a cluster nobody gives guests ids; this one is for the one migration.
        guest: match mandate {
            Some(mandate) => mandate.guest,
            None => GuestId::from_bytes(random()?),
        },
        name: spec.name.clone(),
        epoch: mandate.map_or(Epoch::new(1), |mandate| mandate.epoch),
        spec: spec.encode().map_err(|error| broken(&error))?,
        layout: guest
            .memory_layout()
            .encode()
            .map_err(|error| broken(&error))?,
        pages: guest.ram().bytes() / 4096,
        cpuid: guest.cpuid().to_vec(),
        devices: fit::devices(spec),
        mode: options.mode,
        digests: if options.compare_memory {
            DigestMode::Switch
        } else {
            DigestMode::Off
        },
        streams: options.streams,
        retained: None,
        local: None,
    })
}

fn random() -> Result<[u8; 16], CodedError> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    Ok(bytes)
}
