//! QEMU, the VMM that Godwit is compared with.

use std::process::Command;
use std::time::Duration;

use crate::nested::Assets;
use crate::nested::external;

const QUERY: Duration = Duration::from_secs(20);

/// A QEMU that can be run here.
#[derive(Debug)]
pub struct Peer {
    source: Source,
    version: String,
}

#[derive(Debug)]
enum Source {
    Fetched(Assets),
    Installed,
}

impl Source {
    fn command(&self) -> Command {
        match self {
            Self::Fetched(assets) => assets.qemu(),
            Self::Installed => Command::new("qemu-system-x86_64"),
        }
    }
}

impl Peer {
    /// The QEMU of the nested tests, else the one that is installed. Says loudly when there is none.
    #[must_use]
    pub fn find() -> Option<Self> {
        let fetched = match Assets::fetch() {
            Ok(assets) => Some(Source::Fetched(assets)),
            Err(error) => {
                eprintln!("bench: no QEMU of the nested tests: {error}");
                None
            }
        };
        fetched
            .into_iter()
            .chain([Source::Installed])
            .find_map(|source| {
                let version = external::run(source.command().arg("--version"), QUERY).ok()?;
                let version = version.lines().next()?.to_owned();
                Some(Self { source, version })
            })
            .or_else(|| {
                eprintln!("bench: NO PEER: every comparison is left out");
                None
            })
    }

    /// What it says about itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that runs it; arguments are the caller's.
    #[must_use]
    pub fn command(&self) -> Command {
        self.source.command()
    }

    /// The pieces of nested machines, where they could be had.
    #[must_use]
    pub fn assets(&self) -> Option<&Assets> {
        match &self.source {
            Source::Fetched(assets) => Some(assets),
            Source::Installed => None,
        }
    }
}
