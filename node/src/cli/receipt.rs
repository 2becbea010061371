//! How far a migration is and what it left, out of their documents, for people.

use serde_json::Value;

use super::migrate::{line, number, summary, text};
use super::table::{Facts, bytes};

/// Progress in one line.
pub(super) fn progress(progress: &Value) -> String {
    let left = match progress.get("eta_ms").and_then(Value::as_f64) {
        Some(eta) if progress["eta_late"] == true => format!(", more than {:.1} s", eta / 1e3),
        Some(eta) => format!(", {:.1} s to go", eta / 1e3),
        None => String::new(),
    };
    line(progress) + &left
}

/// A receipt as lines.
pub(super) fn receipt(receipt: &Value) -> String {
    let blackout = receipt.get("blackout").filter(|b| b.is_object()).map(|blackout| {
        let ms = |key| number(blackout, key);
        let outside = match blackout.get("outside_ms").and_then(Value::as_f64) {
            Some(outside) => format!("; {outside:.2} ms to its first frame"),
            None => String::new(),
        };
        format!(
            "{:.2} ms: pause {:.2}, last pages {:.2}, state {:.2}, wire {:.2}, resume {:.2}{outside}",
            ms("total_ms"),
            ms("pause_ms"),
            ms("last_pages_ms"),
            ms("state_ms"),
            ms("wire_ms"),
            ms("resume_ms"),
        )
    });
    let kinds = receipt.get("bytes").and_then(Value::as_object);
    let sent = kinds.into_iter().flatten();
    let sent = sent.filter_map(|(kind, count)| Some(format!("{kind} {}", bytes(count.as_u64()?))));
    let phases = receipt.get("phases").and_then(Value::as_array);
    let phases = phases.into_iter().flatten();
    let phases = phases.map(|phase| {
        format!(
            "{} at {:.1} ms",
            text(phase, "phase"),
            number(phase, "began_ms")
        )
    });
    let throttle = number(receipt, "throttle_max_percent");
    let known = |key| match text(receipt, key) {
        "-" => String::new(),
        text => text.into(),
    };
    let facts = Facts::default()
        .add("receipt", summary(receipt))
        .add("guest", known("name"))
        .add("mode", known("mode"))
        .add("asked by", known("asked_by"))
        .add("because", known("why"))
        .add("blackout", blackout.unwrap_or_default())
        .add("sent", sent.collect::<Vec<_>>().join(", "))
        .add(
            "throttle",
            match throttle {
                0.0 => String::new(),
                percent => format!("up to {percent} %"),
            },
        )
        .add("phases", phases.collect::<Vec<_>>().join("\n"));
    facts.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_of_progress_says_how_long_it_takes() {
        let document = json!({"phase": "copying", "round": 2, "remaining_pages": 25600, "link_rate": 1048576.0, "eta_ms": 2500.0, "eta_late": false});
        let text = progress(&document);
        assert!(
            text.starts_with("copying round 2, 100 MiB left, 1 MiB/s"),
            "{text}"
        );
        assert!(text.ends_with("2.5 s to go"), "{text}");
        assert_eq!(progress(&json!({})), line(&json!({})));
    }

    #[test]
    fn a_receipt_says_what_it_knows() {
        let text = receipt(&json!({
            "outcome": {"result": "completed"}, "total_ms": 361.1, "rounds_total": 3, "mode": "hybrid",
            "blackout": {"total_ms": 6.22, "pause_ms": 1.0}, "bytes": {"zero": 1024, "raw": 2048},
            "phases": [{"phase": "copying", "began_ms": 1.5}],
        }));
        for part in [
            "completed in 361.1 ms",
            "6.22 ms: pause 1.00",
            "raw 2 KiB, zero 1 KiB",
            "copying at 1.5 ms",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(receipt(&json!({})).starts_with("receipt"));
    }
}
