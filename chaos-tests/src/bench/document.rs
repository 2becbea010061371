//! The whole result, for people and for programs.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::row::Row;
use super::{Bench, BenchError, chain};
use crate::nested::external;

/// What was measured, and where.
#[derive(Debug, Serialize)]
pub struct Document {
    /// All rows.
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    /// When it began: UTC.
    pub date: String,
    /// The machine.
    pub machine: Machine,
    /// The peer's version; none when it cannot be had.
    pub peer_version: Option<String>,
    /// The revision of the source; empty outside a working tree.
    pub revision: String,
    /// Whether fewer repeats were made.
    pub quick: bool,
    /// Seconds it took.
    pub seconds: f64,
    #[serde(skip)]
    began: Instant,
}

/// The machine that the numbers belong to.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processor.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// Load average over a minute when it began: what else was going on.
    pub load_before: f64,
    /// And when it ended, its own load included.
    pub load_after: f64,
}

impl Document {
    pub(super) fn new(bench: &Bench) -> Self {
        Self {
            rows: Vec::new(),
            failures: Vec::new(),
            date: said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
            machine: Machine {
                cpu: cpu_name(),
                cpus: std::thread::available_parallelism().map_or(1, usize::from),
                kernel: said(Command::new("uname").arg("-r")),
                load_before: load(),
                load_after: 0.0,
            },
            peer_version: bench.peer.as_ref().map(|peer| peer.version().to_owned()),
            revision: said(
                Command::new("git")
                    .args(["describe", "--always", "--dirty"])
                    .current_dir(env!("CARGO_MANIFEST_DIR")),
            ),
            quick: bench.quick,
            seconds: 0.0,
            began: Instant::now(),
        }
    }

    /// Adds what `measure` gives, or why it gives nothing.
    pub(super) fn add(
        &mut self,
        bench: &Bench,
        name: &str,
        measure: impl FnOnce(&Bench) -> Result<Vec<Row>, BenchError>,
    ) {
        if !name.contains(&bench.only) {
            return;
        }
        eprintln!("bench: {name}");
        let begin = Instant::now();
        match measure(bench) {
            Ok(rows) => {
                for row in &rows {
                    let [godwit, peer] = [
                        measured(row.godwit, row.godwit_spread),
                        measured(row.peer, row.peer_spread),
                    ];
                    eprintln!("bench:   {}: {godwit}, peer {peer} {}", row.what, row.unit);
                }
                self.rows.extend(rows);
            }
            Err(error) => {
                let failure = format!("{name}: {}", chain(&error));
                eprintln!("bench: FAILED {failure}");
                self.failures.push(failure);
            }
        }
        eprintln!("bench: {name} took {:.0} s", begin.elapsed().as_secs_f64());
        self.seconds = self.began.elapsed().as_secs_f64();
        self.machine.load_after = load();
    }

    /// A table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, {} x {}, Linux {}, load {:.1} before and {:.1} after, {}, revision {}, {:.0} s\n\n\
             | what | godwit | peer | unit | ratio | aim | met | peer is | n |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            self.date,
            self.machine.cpus,
            self.machine.cpu,
            self.machine.kernel,
            self.machine.load_before,
            self.machine.load_after,
            self.peer_version.as_deref().unwrap_or("no peer"),
            self.revision,
            self.seconds,
        );
        for row in &self.rows {
            let met = row.met.map_or("-", |met| if met { "yes" } else { "NO" });
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {met} | {} | {}/{} |",
                row.what,
                measured(row.godwit, row.godwit_spread),
                measured(row.peer, row.peer_spread),
                row.unit,
                row.ratio.map_or("-".to_owned(), significant),
                row.aim,
                row.peer_is,
                row.repeats[0],
                row.repeats[1],
            );
        }
        text.push('\n');
        for row in self.rows.iter().filter(|row| !row.note.is_empty()) {
            let _ = writeln!(text, "- {}: {}.", row.what, row.note);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "- NOT MEASURED {failure}");
        }
        text
    }
}

fn measured(median: Option<f64>, spread: Option<[f64; 2]>) -> String {
    match (median, spread) {
        (Some(median), Some([low, high])) => format!(
            "**{}** ({}..{})",
            significant(median),
            significant(low),
            significant(high)
        ),
        _ => "-".to_owned(),
    }
}

/// Three significant digits.
fn significant(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn said(command: &mut Command) -> String {
    let text = external::run(command, Duration::from_secs(10)).unwrap_or_default();
    text.trim().to_owned()
}

fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next();
    first.and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_three_digits() {
        let shown = [1234.5, 45.67, 4.567, 0.1234].map(significant);
        assert_eq!(shown, ["1234", "45.7", "4.57", "0.123"]);
    }
}
