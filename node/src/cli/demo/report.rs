//! What the demo tells: a story for people, or one document.

use std::time::Instant;

use godwit_proto::codes::CodedError;
use serde_json::{Value, json};

use super::witness::Seen;

/// What was done so far.
pub(super) struct Report {
    json: bool,
    begun: Instant,
    steps: Vec<Value>,
    migration: Value,
    invariants: Value,
    ok: bool,
}

/// A step that is under way.
pub(super) struct Step {
    name: &'static str,
    begun: Instant,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            begun: Instant::now(),
            steps: Vec::new(),
            migration: Value::Null,
            invariants: Value::Null,
            ok: true,
        }
    }

    /// Begins a step.
    pub(super) fn begin(&self, name: &'static str, what: &str) -> Step {
        if !self.json {
            println!("\n{:5.1} s  {what}", self.begun.elapsed().as_secs_f64());
        }
        let begun = Instant::now();
        Step { name, begun }
    }

    /// Something worth telling.
    pub(super) fn say(&self, text: &str) {
        if !self.json {
            for line in text.lines() {
                println!("         {line}");
            }
        }
    }

    /// Ends a step, with what came of it.
    pub(super) fn done(&mut self, step: &Step, detail: &str) {
        let seconds = step.begun.elapsed().as_secs_f64();
        self.say(&format!("=> {detail} ({seconds:.2} s)"));
        self.steps.push(json!({
            "name": step.name,
            "ok": true,
            "seconds": seconds,
            "detail": detail,
        }));
    }

    /// The migration that the demo is about.
    pub(super) fn migration(&mut self, blackout_ms: Option<f64>, receipt: &Value) {
        self.migration = json!({ "blackout_ms": blackout_ms, "receipt": receipt });
    }

    /// What must hold, as the witness saw it.
    pub(super) fn invariants(&mut self, seen: &Seen, missing: &[String]) {
        self.ok &= seen.dual_run == 0 && seen.wrong_pages == 0 && missing.is_empty();
        self.ok &= seen.checks > 0;
        self.invariants = json!({
            "dual_run": seen.dual_run,
            "lost": missing.len(),
            "wrong_pages": seen.wrong_pages,
            "looks": seen.looks,
            "memory_checks": seen.checks,
        });
    }

    /// It came to an end before its end.
    pub(super) fn failed(&mut self, error: &CodedError) {
        self.ok = false;
        self.say(&format!("=> FAILED: {error}"));
        self.steps.push(json!({
            "name": "failed",
            "ok": false,
            "detail": error.to_string(),
        }));
    }

    /// Tells all of it. Whether all was as it must be.
    pub(super) fn end(&self) -> bool {
        let seconds = self.begun.elapsed().as_secs_f64();
        if self.json {
            let document = json!({
                "ok": self.ok,
                "seconds": seconds,
                "steps": self.steps,
                "migration": self.migration,
                "invariants": self.invariants,
            });
            println!("{document:#}");
            return self.ok;
        }
        println!("\nWhat was done                              seconds  what came of it");
        for step in &self.steps {
            println!(
                "  {:<40} {:>7.2}  {}",
                step["name"].as_str().unwrap_or_default(),
                step["seconds"].as_f64().unwrap_or_default(),
                step["detail"].as_str().unwrap_or_default()
            );
        }
        let number = |key: &str| self.invariants[key].as_u64().unwrap_or_default();
        println!("\nWhat must hold");
        println!(
            "  guests that ran twice at one moment      {:>7}  in {} looks at every process",
            number("dual_run"),
            number("looks")
        );
        println!(
            "  guests that were lost                    {:>7}",
            number("lost")
        );
        println!(
            "  wrong pages                              {:>7}  in {} checks of all that guests wrote",
            number("wrong_pages"),
            number("memory_checks")
        );
        let verdict = if self.ok {
            "All of it holds"
        } else {
            "NOT all of it holds"
        };
        println!("\n{verdict}, after {seconds:.1} s.");
        self.ok
    }
}
