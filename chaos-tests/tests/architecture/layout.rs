//! What lies at the top of the repository, and that the one test command is the same everywhere.

use std::fs;

use crate::{Violations, assert_none, tree};

/// The top level, exactly; names that begin with a dot may come beside it.
const TOP: [&str; 14] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "chaos-tests",
    "control-plane",
    "deploy",
    "docs",
    "migration",
    "node",
    "proto",
    "target",
    "vmm",
];

/// How everything is tested, as the README says and `.ci/run` does.
const TEST_COMMAND: &str = "cargo test --workspace";

/// Pure crates, with the functions that none of them may call.
const PURE: [&str; 3] = ["proto", "migration", "control-plane"];
const IMPURE: [&str; 8] = [
    "std::time::Instant::now",
    "std::time::Instant::elapsed",
    "std::time::SystemTime::now",
    "std::time::SystemTime::elapsed",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::hash::RandomState::new",
    "rand::random",
];

fn check_top<'a>(entries: impl IntoIterator<Item = &'a str>) -> Violations {
    let entries: Vec<_> = entries
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .collect();
    let strange = entries.iter().filter(|name| !TOP.contains(name));
    let missing = TOP
        .iter()
        .filter(|name| **name != "target" && !entries.contains(name));
    strange
        .map(|name| format!("{name} does not belong at the top level"))
        .chain(missing.map(|name| format!("{name} is missing at the top level")))
        .collect()
}

fn check_test_command(readme: &str, ci: &str) -> Violations {
    let is_command = |line: &str| line.trim() == TEST_COMMAND;
    [("README.md", readme), (".ci/run", ci)]
        .iter()
        .filter(|(_, text)| text.lines().filter(|line| is_command(line)).count() != 1)
        .map(|(path, _)| format!("{path} has not exactly one line `{TEST_COMMAND}`"))
        .collect()
}

/// A configuration of clippy in a crate takes the place of the workspace's: each has all it needs.
fn check_purity(path: &str, config: &str) -> Violations {
    let bans = |name: &&&str| !config.contains(&format!("path = \"{name}\""));
    let missing = IMPURE.iter().filter(bans);
    let mut violations: Violations = missing
        .map(|name| format!("{path} does not ban {name}"))
        .collect();
    if !config.contains("allow-unwrap-in-tests = true") {
        violations.push(format!("{path} does not repeat allow-unwrap-in-tests"));
    }
    violations
}

#[test]
fn the_top_level_is_exactly_the_house() {
    let names: Vec<_> = fs::read_dir(tree::root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_none(&check_top(names.iter().map(String::as_str)));
}

#[test]
fn the_readme_and_ci_test_in_the_same_way() {
    assert_none(&check_test_command(
        &tree::read("README.md"),
        &tree::read(".ci/run"),
    ));
}

#[test]
fn pure_crates_ban_clocks_threads_and_randomness() {
    let check = |folder| {
        let path = format!("{folder}/.clippy.toml");
        check_purity(&path, &tree::read(&path))
    };
    assert_none(&PURE.into_iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn a_strange_or_missing_entry_is_found() {
    assert_none(&check_top(TOP.into_iter().chain([".ci", ".gitignore"])));
    assert_eq!(
        check_top(
            TOP.into_iter()
                .filter(|name| *name != "docs")
                .chain(["scripts"])
        ),
        [
            "scripts does not belong at the top level",
            "docs is missing at the top level"
        ]
    );
}

#[test]
fn another_test_command_is_found() {
    let right = format!("Run:\n\n    {TEST_COMMAND}\n");
    assert_none(&check_test_command(&right, &right));
    assert_eq!(
        check_test_command("cargo test --workspace --lib", &right).len(),
        1
    );
    assert_eq!(check_test_command(&right, "cargo test").len(), 1);
}

#[test]
fn a_config_that_bans_too_little_is_found() {
    let all: Vec<_> = IMPURE
        .iter()
        .map(|name| format!("{{ path = \"{name}\" }}"))
        .collect();
    let good = format!("allow-unwrap-in-tests = true\n{}", all.join("\n"));
    assert_none(&check_purity("a", &good));
    assert_eq!(
        check_purity("a", &good.replace("thread::sleep", "thread::yield_now")).len(),
        1
    );
    assert_eq!(check_purity("a", &all.join("\n")).len(), 1);
}
