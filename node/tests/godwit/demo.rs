//! The main job, as the README tells to try it.

use crate::support::{godwit, has_kvm};

#[test]
fn the_demo_does_what_it_says_and_leaves_nothing_behind() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lab = dir.path().join("lab");
    let ended = godwit(
        dir.path(),
        &["demo", "--json", "--dir", lab.to_str().unwrap()],
    );
    let document: serde_json::Value = serde_json::from_str(&ended.stdout.join("\n")).unwrap();
    assert_eq!(document["ok"], true, "{document:#}");
    let names: Vec<_> = document["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["name"])
        .collect();
    assert_eq!(
        names,
        [
            "form a cluster",
            "place four guests",
            "move a guest under load",
            "empty a node",
            "lose a node",
            "the node returns",
            "lose a daemon"
        ]
    );
    assert!(document["migration"]["blackout_ms"].as_f64().unwrap() > 0.0);
    let invariants = &document["invariants"];
    for broken in ["dual_run", "lost", "wrong_pages"] {
        assert_eq!(invariants[broken], 0, "{invariants}");
    }
    assert!(invariants["memory_checks"].as_u64().unwrap() > 0);
    assert!(!lab.exists(), "its files are still there");
}
