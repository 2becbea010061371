//! `godwit bench`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use godwit_proto::codes::CodedError;
use godwit_proto::process::MigrateRequest;
use tracing::level_filters::LevelFilter;

use super::guest_args::Size;
use super::migrate::print;
use super::output::{Output, log_to};
use super::terms::Terms;
use crate::bench::{self, Workload};

const EXAMPLES: &str = "\
Examples:
  godwit receive --bench --listen 192.0.2.7:7401                 (on one host)
  godwit bench migrate --to 192.0.2.7:7401 --token ...           (on another)
  godwit bench migrate --to ... --token ... --times 20 --memory 4G \\
      --dirty 1G --rate 50000 --pattern zipf --mode pre-copy

What is measured is this host, that host and the link between them, with the
built-in test guest. Blackout is what the source sees: from the order to pause
until it hears that the guest runs.";

/// Measure this host
#[derive(Subcommand, Debug)]
pub(super) enum Bench {
    Migrate(Box<BenchMigrate>),
}

impl Bench {
    pub(super) fn execute(&self) -> ExitCode {
        match self {
            Self::Migrate(command) => command.execute(),
        }
    }
}

/// Move test guests to a `godwit receive --bench`, one after the other, and tell how it went
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchMigrate {
    /// Where `godwit receive --bench` listens
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// The token that it printed
    #[arg(long, value_name = "TOKEN")]
    token: String,
    /// How many guests are moved, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: u32,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: Size,
    /// Its vCPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// How much of its memory it writes, before it is moved and while it is
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    dirty: Size,
    /// Pages a second that it writes; 0 for as fast as it can
    #[arg(long, value_name = "PAGES", default_value_t = 10_000)]
    rate: u64,
    /// In which order it writes them
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = Pattern::Seq)]
    pattern: Pattern,
    /// It rewrites whole pages, so many percent of whose words are random; without this it changes 8 bytes
    /// of each page
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    entropy: Option<u8>,
    #[command(flatten)]
    terms: Terms,
    /// Write all receipts and what follows from them to stdout as JSON
    #[arg(long)]
    json: bool,
    /// What is logged to stderr: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: LevelFilter,
}

/// The order in which the guest writes pages.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Pattern {
    Seq,
    Random,
    Zipf,
}

impl BenchMigrate {
    fn execute(&self) -> ExitCode {
        log_to(self.log, None);
        let output = Output { json: self.json };
        match self.run(output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&error),
        }
    }

    fn run(&self, output: Output) -> Result<(), CodedError> {
        let workload = Workload {
            memory_bytes: self.memory.0,
            vcpus: self.cpus,
            dirty_bytes: self.dirty.0,
            dirty_rate: self.rate,
            pattern: match self.pattern {
                Pattern::Seq => "seq",
                Pattern::Random => "random",
                Pattern::Zipf => "zipf",
            },
            entropy: self.entropy,
        };
        let request = MigrateRequest {
            to: self.to.clone(),
            token: self.token.clone(),
            asked_by: std::env::var("USER").unwrap_or_default(),
            why: "a measurement".into(),
            ..self.terms.request()
        };
        let measured = bench::migrate(&workload, &request, self.times, |trip| {
            if !self.json {
                output.say(trip);
            }
        })?;
        match self.json {
            true => print(&measured.json().to_string()),
            false => print(measured.to_string().trim_end()),
        }
    }
}
