//! Measuring two hosts, which are one here.

use serde_json::Value;

use crate::moving::receive;
use crate::support::{godwit, has_kvm};

const SMALL: [&str; 6] = ["--memory", "64M", "--dirty", "8M", "--rate", "1000"];

#[test]
fn test_guests_are_moved_as_often_as_asked_and_measured() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (target, to, token) = receive(dir, "token", &["--bench", "--patience", "5"]);
    let bench = |more: &[&str]| {
        let words = ["bench", "migrate", "--to", &to, "--token", &token];
        godwit(dir, &[&words[..], &SMALL[..], more].concat())
    };
    let measured = bench(&["--times", "3", "--json"]);
    assert_eq!(measured.code, Some(0), "{}", measured.stderr);
    let document: Value = serde_json::from_str(measured.stdout.last().unwrap()).unwrap();
    assert_eq!(document["trips"], 3);
    assert_eq!(document["guest"]["dirty_bytes"], 8 << 20);
    let receipts = document["receipts"].as_array().unwrap();
    let mut blackouts: Vec<f64> = receipts
        .iter()
        .map(|receipt| receipt["blackout"]["total_ms"].as_f64().unwrap())
        .collect();
    blackouts.sort_by(f64::total_cmp);
    let blackout = &document["measured"]["blackout_ms"];
    assert_eq!(blackout["median"], blackouts[1]);
    assert_eq!(blackout["min"], blackouts[0]);
    assert_eq!(blackout["max"], blackouts[2]);
    let sent = document["measured"]["sent_mib"]["min"].as_f64().unwrap();
    assert!(sent > 0.1, "{document}");

    // By the same token, by another process.
    let table = bench(&["--times", "1", "--mode", "pre-copy"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let mut lines = table.stdout.iter();
    assert!(
        lines.any(|line| line.starts_with("blackout ")),
        "{table:#?}"
    );
    let ended = target.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("4 guests came"), "{}", ended.stderr);
}

#[test]
fn a_measurement_that_cannot_be_made_says_why() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (target, to, token) = receive(dir, "token", &["--bench"]);
    let words = ["bench", "migrate", "--to", &to, "--token", &token];
    for (more, code) in [
        (&["--mode", "local"][..], 2),
        (&["--times", "0"], 2),
        (&["--memory", "64M", "--dirty", "1G"], 2),
    ] {
        let refused = godwit(dir, &[&words[..], more].concat());
        assert_eq!(refused.code, Some(code), "{more:?}: {}", refused.stderr);
    }
    drop(target);
    let gone = godwit(dir, &[&words[..], &SMALL[..]].concat());
    assert_eq!(gone.code, Some(23), "{}", gone.stderr);
}
