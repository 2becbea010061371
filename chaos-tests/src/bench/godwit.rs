//! The program under measurement.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::BenchError;
use crate::nested::external;

/// From nothing to a release build.
const BUILD: Duration = Duration::from_secs(1200);

/// The program that the environment variable `GODWIT_BIN` names, or the one that cargo builds now.
///
/// # Errors
/// When it does not build.
pub fn program() -> Result<PathBuf, BenchError> {
    if let Some(path) = std::env::var_os("GODWIT_BIN") {
        return Ok(PathBuf::from(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut build = Command::new(cargo);
    build.current_dir(workspace).args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "godwit-node",
        "--message-format",
        "json",
    ]);
    external::run(&mut build, BUILD)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "godwit")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or(BenchError::NoProgram)
}
