//! Builds the bare-metal guest in `payload/` with the same compiler, so that
//! the library can carry it. Nothing but rustc and the C compiler's linker is
//! needed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("building the payload: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let payload = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("payload");
    let output = PathBuf::from(variable("OUT_DIR")?).join("payload.elf");
    println!("cargo:rerun-if-changed=build.rs");
    watch(&payload)?;
    let target = variable("TARGET")?;
    if !target.starts_with("x86_64-") {
        return Err(format!(
            "the guest is an x86-64 program, the target is {target}"
        ));
    }
    // Not cargo: a build script inside a build would wait for its lock, and the
    // flags of the workspace (RUSTFLAGS, profiles) are not meant for the guest.
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args([
            "--crate-name=godwit_payload",
            "--crate-type=bin",
            "--edition=2024",
        ])
        .args([
            "-Copt-level=3",
            "-Cpanic=abort",
            "-Ccodegen-units=1",
            "-Cstrip=symbols",
        ])
        .args(["-Crelocation-model=static", "-Cdefault-linker-libraries=no"])
        .arg("-Clink-args=-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none -T")
        .arg(format!("-Clink-arg={}", payload.join("link.ld").display()))
        // Panics name their file; where the sources lie is nobody's business.
        .arg(format!("--remap-path-prefix={}=payload", payload.display()))
        .args(["--target", &target, "-o"])
        .arg(&output)
        .arg(payload.join("src/main.rs"));
    let status = rustc
        .status()
        .map_err(|error| format!("{rustc:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{rustc:?}: {status}"));
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// Watches a directory's files one by one: a directory itself would not
/// notice a file that changed in place.
fn watch(directory: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed={}", directory.display());
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in directory.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            watch(&path)?;
        } else {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    Ok(())
}
