//! `godwit snapshot inspect`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use godwit_proto::guest::{GuestSpec, Kernel, SerialSpec};
use godwit_proto::process::Overrides;
use godwit_vmm::guest::snapshot_spec;
use serde_json::{Value, json};

use super::output::Output;

/// Show the guest of a snapshot
///
/// The state file is checked as a whole; memory is checked when it is restored.
#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// Directory of the snapshot
    dir: PathBuf,
    /// How it is shown
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// A JSON document
    Json,
}

impl Inspect {
    pub(super) fn execute(&self) -> ExitCode {
        let spec = match snapshot_spec(&self.dir, &Overrides::default()) {
            Ok(spec) => spec,
            Err(error) => return Output::default().fail(&error.coded()),
        };
        let text = match self.output {
            Format::Json => spec_json(&spec).to_string(),
            Format::Text => spec_text(&spec),
        };
        // Whoever closed stdout has seen enough.
        let _ = writeln!(std::io::stdout(), "{text}");
        ExitCode::SUCCESS
    }
}

fn kernel(spec: &GuestSpec) -> &str {
    match &spec.boot.kernel {
        Kernel::BuiltIn => "built-in",
        Kernel::File(path) => path,
    }
}

fn end(spec: &SerialSpec) -> String {
    match spec {
        SerialSpec::Null => "null".into(),
        SerialSpec::Stdio => "stdio".into(),
        SerialSpec::File(path) => format!("file:{path}"),
        SerialSpec::Socket(path) => format!("socket:{path}"),
    }
}

fn spec_json(spec: &GuestSpec) -> Value {
    json!({
        "name": spec.name,
        "vcpus": spec.vcpus,
        "memory_bytes": spec.memory.size_bytes,
        "cpu_profile": spec.cpu_profile,
        "kernel": kernel(spec),
        "initrd": spec.boot.initrd,
        "cmdline": spec.boot.cmdline,
        "serial": end(&spec.serial),
        "console": spec.console.as_ref().map(end),
        "rng": spec.rng,
        "disks": spec.disks.iter().map(|disk| json!({
            "id": disk.id, "path": disk.path, "read_only": disk.read_only,
        })).collect::<Vec<_>>(),
        "nets": spec.nets.iter().map(|net| json!({
            "id": net.id, "tap": net.tap, "queue_pairs": net.queue_pairs,
        })).collect::<Vec<_>>(),
    })
}

fn spec_text(spec: &GuestSpec) -> String {
    let mut lines = vec![
        format!("name     {}", spec.name),
        format!("vcpus    {} ({})", spec.vcpus, spec.cpu_profile),
        format!("memory   {} MiB", spec.memory.size_bytes >> 20),
        format!("kernel   {}", kernel(spec)),
        format!(
            "cmdline  {}",
            spec.boot.cmdline.as_deref().unwrap_or("default")
        ),
        format!("serial   {}", end(&spec.serial)),
    ];
    lines.extend(
        spec.console
            .as_ref()
            .map(|console| format!("console  {}", end(console))),
    );
    let disks = spec
        .disks
        .iter()
        .map(|disk| format!("disk     {} {}", disk.id, disk.path));
    lines.extend(disks);
    lines.extend(
        spec.nets
            .iter()
            .map(|net| format!("net      {} {}", net.id, net.tap)),
    );
    lines.join("\n")
}
