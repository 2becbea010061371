//! The rules of the protocol that code cites are written down.

#![allow(
    clippy::unwrap_used,
    reason = "a file that cannot be read is a failed test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("MIG-")
        .filter_map(|(at, _)| text.get(at + 4..at + 6))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_rule_that_code_cites_is_in_the_specification_and_none_is_there_twice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let spec = fs::read_to_string(root.join("../docs/spec/migration-protocol.md")).unwrap();
    let rules: Vec<&str> = spec
        .lines()
        .filter_map(|line| line.strip_prefix("- **MIG-")?.get(..2))
        .collect();
    let unique: BTreeSet<&str> = rules.iter().copied().collect();
    assert_eq!(
        rules.len(),
        unique.len(),
        "a rule is there twice: {rules:?}"
    );
    assert!(rules.is_sorted());
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut cited = 0;
    for file in files {
        for number in numbers(&fs::read_to_string(&file).unwrap()) {
            assert!(
                unique.contains(number),
                "{} cites MIG-{number}",
                file.display()
            );
            cited += 1;
        }
    }
    assert!(cited > 10, "only {cited} citations");
}
