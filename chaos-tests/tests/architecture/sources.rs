//! How sources are written: where `unsafe` is and what it says, how long files are, what does not
//! stay in the code.

use std::collections::BTreeSet;

use crate::code::{code_only, test_lines, test_modules, words};
use crate::tree::Source;
use crate::{Violations, assert_none, tree};

/// Where `unsafe` may be: system calls, guest memory, the kernel's names, and a guest that is on
/// its own on a machine.
const UNSAFE: [&str; 4] = [
    "vmm/src/kvm/",
    "vmm/src/memory/",
    "vmm/payload/src/",
    "vmm/userfaultfd-sys/src/",
];
/// From a `SAFETY:` to the `unsafe` it is about, in lines at most.
const SAFETY_LINES: usize = 10;

/// The longest file, in lines.
const MAX_LINES: usize = 700;
/// Files that may be longer, and why.
const LONGER: [(&str, usize, &str); 3] = [
    (
        "vmm/src/devices/virtio/block/tests.rs",
        1000,
        "one harness, and every request a driver can get wrong",
    ),
    (
        "vmm/src/devices/virtio/net/tests.rs",
        900,
        "one harness, and every frame and queue a driver can get wrong",
    ),
    (
        "vmm/src/devices/virtio/transport/tests.rs",
        850,
        "one register file, driven well and badly",
    ),
];

/// What an unfinished or careless program is known by, outside tests.
const NOT_FINISHED: [&str; 4] = ["todo", "unimplemented", "dbg", "unwrap"];

/// Places of the machine that somebody worked on, and hosts that packages come from: both are for
/// configuration. Written in pieces, as this file is searched too.
const PLACES: [&str; 6] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("deb.debian", ".org"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
];

fn check_unsafe(path: &str, text: &str) -> Violations {
    let code = code_only(text);
    let lines: BTreeSet<_> = words(&code)
        .filter(|(_, word)| *word == "unsafe")
        .map(|(line, _)| line)
        .collect();
    if !UNSAFE.iter().any(|place| path.starts_with(place)) {
        return lines
            .iter()
            .map(|line| format!("{path}:{}: unsafe", line + 1))
            .collect();
    }
    let (text, code): (Vec<_>, Vec<_>) = (text.lines().collect(), code.lines().collect());
    let unproven = |line: &&usize| {
        let tail = code[**line]
            .split_once("unsafe")
            .map_or("", |(_, tail)| tail.trim_start());
        // What a caller has to see to is in the function's documentation. An attribute, or a block
        // that declares foreign names, does nothing by itself.
        let is_foreign = tail.starts_with("extern");
        let is_function = tail.starts_with("fn") || is_foreign && tail.contains(" fn ");
        let word = match tail.starts_with('(') || is_foreign && !is_function {
            true => return false,
            false if is_function => "# Safety",
            false => "SAFETY:",
        };
        let before = &text[line.saturating_sub(SAFETY_LINES)..=**line];
        !before.iter().any(|line| line.contains(word))
    };
    let unproven = lines.iter().filter(unproven);
    unproven
        .map(|line| format!("{path}:{}: unsafe without a proof", line + 1))
        .collect()
}

fn check_length(path: &str, text: &str) -> Violations {
    let longer = LONGER.iter().find(|(longer, ..)| *longer == path);
    let max = longer.map_or(MAX_LINES, |(_, max, _)| *max);
    match text.lines().count() {
        lines if lines > max => vec![format!("{path}: {lines} lines, at most {max}")],
        _ => Vec::new(),
    }
}

fn check_finished(path: &str, text: &str) -> Violations {
    let code = code_only(text);
    let tests = test_lines(&code);
    let mut violations = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let found = NOT_FINISHED.iter().filter(|word| match **word {
            "unwrap" => text.contains(".unwrap()"),
            word => {
                words(text).any(|(_, found)| found == word) && text.contains(&format!("{word}!"))
            }
        });
        if !tests.iter().any(|test| test.contains(&line)) {
            violations.extend(found.map(|word| format!("{path}:{}: {word}", line + 1)));
        }
    }
    violations
}

fn check_places(path: &str, text: &str) -> Violations {
    let named = |(line, text): (usize, &str)| {
        let place = PLACES.iter().find(|place| text.contains(**place))?;
        Some(format!("{path}:{}: names {place}", line + 1))
    };
    text.lines().enumerate().filter_map(named).collect()
}

/// The files that hold nothing but tests.
fn test_files(sources: &[Source]) -> BTreeSet<String> {
    let mut declared = Vec::new();
    for source in sources {
        let folder = match source.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder,
            _ => source.path.trim_end_matches(".rs"),
        };
        for name in test_modules(&code_only(&source.text)) {
            declared.push(format!("{folder}/{name}.rs"));
            declared.push(format!("{folder}/{name}/"));
        }
    }
    let is_test = |path: &str| {
        path.contains("/tests/")
            || path.contains("/fuzz_targets/")
            || declared
                .iter()
                .any(|d| path == d || d.ends_with('/') && path.starts_with(d))
    };
    let paths = sources.iter().map(|source| source.path.clone());
    paths.filter(|path| is_test(path)).collect()
}

fn each(check: fn(&str, &str) -> Violations, sources: &[Source]) -> Violations {
    sources
        .iter()
        .flat_map(|source| check(&source.path, &source.text))
        .collect()
}

#[test]
fn unsafe_is_only_where_it_belongs_and_always_proven() {
    assert_none(&each(check_unsafe, &tree::sources(&["rs"])));
}

#[test]
fn no_file_grows_out_of_hand() {
    let sources = tree::sources(&["rs", "s", "sh"]);
    assert_none(&each(check_length, &sources));
    for (path, ..) in LONGER {
        let listed = sources.iter().find(|source| source.path == path);
        let lines = listed.map_or(0, |source| source.text.lines().count());
        assert!(lines > MAX_LINES, "{path} is no exception any more");
    }
}

#[test]
fn nothing_unfinished_is_left_outside_tests() {
    let mut sources = tree::sources(&["rs"]);
    let tests = test_files(&sources);
    assert!(
        tests.contains("vmm/src/devices/virtio/mock.rs"),
        "{tests:?}"
    );
    sources.retain(|source| !tests.contains(&source.path));
    assert_none(&each(check_finished, &sources));
}

#[test]
fn nobody_s_machine_and_no_package_host_is_named() {
    let texts = ["rs", "s", "sh", "md", "toml", "ld", "json", "yml", "yaml"];
    let mut sources = tree::sources(&texts);
    let path = ".ci/run".to_owned();
    let text = tree::read(&path);
    sources.push(Source { path, text });
    assert_none(&each(check_places, &sources));
}

#[test]
fn unsafe_elsewhere_or_without_a_proof_is_found() {
    let bare = "fn f() {\n    unsafe { g() }\n}\n";
    let proven = "fn f() {\n    // SAFETY: g is harmless.\n    unsafe { g() }\n}\n";
    assert_eq!(
        check_unsafe("node/src/a.rs", proven),
        ["node/src/a.rs:3: unsafe"]
    );
    assert_eq!(
        check_unsafe("vmm/src/kvm/a.rs", bare),
        ["vmm/src/kvm/a.rs:2: unsafe without a proof"]
    );
    assert_none(&check_unsafe("vmm/src/kvm/a.rs", proven));
    assert_eq!(
        check_unsafe("vmm/src/memory/a.rs", "unsafe impl Send for A {}").len(),
        1
    );
    assert_eq!(
        check_unsafe("vmm/src/memory/a.rs", "unsafe fn f() {}").len(),
        1
    );
    assert_none(&check_unsafe(
        "vmm/src/memory/a.rs",
        "/// # Safety\n/// Call once.\nunsafe fn f() {}",
    ));
    assert_none(&check_unsafe(
        "vmm/src/bus.rs",
        "#![forbid(unsafe_code)] // unsafe",
    ));
}

#[test]
fn a_file_that_is_too_long_is_found() {
    let text = "\n".repeat(MAX_LINES + 1);
    assert_eq!(check_length("vmm/src/a.rs", &text).len(), 1);
    assert_none(&check_length("vmm/src/a.rs", &text[1..]));
    assert_none(&check_length(LONGER[0].0, &text));
}

#[test]
fn unfinished_code_is_found_outside_tests_only() {
    for line in ["todo!()", "unimplemented!(\"x\")", "dbg!(1)", "a.unwrap()"] {
        let text = format!("fn f() {{\n    {line}\n}}\n");
        assert_eq!(check_finished("a.rs", &text).len(), 1, "{line}");
        assert_none(&check_finished(
            "a.rs",
            &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n"),
        ));
        assert_none(&check_finished("a.rs", &format!("#[test]\n{text}")));
        assert_none(&check_finished("a.rs", &format!("// {line}\n")));
    }
    assert_none(&check_finished("a.rs", "a.unwrap_or(0)"));
    let file = |path: &str, text: &str| Source {
        path: path.into(),
        text: text.into(),
    };
    let tests = test_files(&[
        file("a/src/b/mod.rs", "#[cfg(test)]\nmod mock;\nmod real;"),
        file("a/src/b/mock.rs", ""),
        file("a/src/b/mock/deep.rs", ""),
        file("a/src/b/real.rs", ""),
        file("a/tests/c.rs", ""),
    ]);
    let expected = ["a/src/b/mock.rs", "a/src/b/mock/deep.rs", "a/tests/c.rs"];
    assert_eq!(tests, expected.map(String::from).into());
}

#[test]
fn places_of_a_machine_are_found() {
    for place in PLACES {
        let text = format!("first\nsee {place}x");
        assert_eq!(
            check_places("a.md", &text),
            [format!("a.md:2: names {place}")]
        );
    }
    assert_none(&check_places("a.md", "see docs/ARCHITECTURE.md"));
}
