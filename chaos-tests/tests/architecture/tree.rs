//! The files of the repository, as a clean clone has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Build products and what tools leave behind; see `.gitignore`.
const NOT_OURS: [&str; 5] = [
    ".git",
    "target",
    "proto/fuzz/target",
    "proto/fuzz/corpus",
    "proto/fuzz/artifacts",
];
/// More files than the repository will have for a long time; ends a walk that went astray.
const MAX_FILES: usize = 20_000;

/// A text file, by its path from the top.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("a crate has the workspace above it")
        .into()
}

/// The paths of all files, from the top, in order.
pub(crate) fn paths() -> Vec<String> {
    let root = root();
    let mut paths = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = match folder.as_str() {
                "" => name,
                folder => format!("{folder}/{name}"),
            };
            if NOT_OURS.contains(&path.as_str()) {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false => paths.push(path),
            }
            assert!(paths.len() < MAX_FILES, "more than {MAX_FILES} files");
        }
    }
    paths.sort();
    paths
}

/// Every text file whose name ends in one of `extensions`.
pub(crate) fn sources(extensions: &[&str]) -> Vec<Source> {
    let wanted = |path: &String| {
        let extension = Path::new(path).extension();
        extension.is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
    };
    let read = |path: String| Source {
        text: fs::read_to_string(root().join(&path)).unwrap(),
        path,
    };
    let sources: Vec<_> = paths().into_iter().filter(wanted).map(read).collect();
    assert!(!sources.is_empty(), "no file ends in {extensions:?}");
    sources
}

/// One text file.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What cargo says about the workspace and all it builds with on Linux.
pub(crate) fn cargo_metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        // Without it cargo wants the packages of every platform at hand.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}
