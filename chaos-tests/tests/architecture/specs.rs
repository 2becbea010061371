//! Specifications: rules are numbered without gaps, and each names the tests that hold it.

use std::collections::BTreeSet;

use crate::code::{code_only, words};
use crate::{Violations, assert_none, tree};

/// Begins the list of a rule's tests; `none` says that there is no test yet.
const TESTS: &str = "*Tests:* ";

/// Specifications whose rules code and tests cite by number, which a test of their own crate checks.
const CITED_BY_CODE: [(&str, &str); 1] = [(
    "docs/spec/migration-protocol.md",
    "migration/tests/rules.rs",
)];

/// Rules are paragraphs that begin with `**NAME-01**` and end with their tests.
fn check(path: &str, text: &str, functions: &BTreeSet<String>) -> Violations {
    let mut violations = Vec::new();
    let mut expected = 1;
    for paragraph in text.split("\n\n").map(str::trim) {
        let Some((name, _)) = paragraph
            .strip_prefix("**")
            .and_then(|p| p.split_once("**"))
        else {
            continue;
        };
        let Some((_, number)) = name.rsplit_once('-') else {
            continue;
        };
        if number != format!("{expected:02}") {
            violations.push(format!(
                "{path}: {name} comes where rule {expected:02} should"
            ));
        }
        expected += 1;
        let Some((_, tests)) = paragraph.split_once(TESTS) else {
            violations.push(format!("{path}: {name} does not say which tests hold it"));
            continue;
        };
        let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && !paragraph.ends_with("none.") {
            violations.push(format!("{path}: {name} names no test"));
        }
        let unknown = tests.iter().filter(|test| !functions.contains(**test));
        violations.extend(
            unknown.map(|test| format!("{path}: {name} names {test}, which is no function")),
        );
    }
    if expected == 1 {
        violations.push(format!("{path} has no rules"));
    }
    violations
}

fn functions<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    for text in texts {
        let code = code_only(text);
        let mut before = "";
        for (_, word) in words(&code) {
            if before == "fn" {
                functions.insert(word.to_owned());
            }
            before = word;
        }
    }
    functions
}

#[test]
fn every_rule_of_a_specification_names_tests_that_exist() {
    let sources = tree::sources(&["rs"]);
    let functions = functions(sources.iter().map(|source| source.text.as_str()));
    let documents = tree::sources(&["md"]);
    let specs = documents
        .iter()
        .filter(|d| d.path.starts_with("docs/spec/"))
        .filter(|d| CITED_BY_CODE.iter().all(|(spec, _)| *spec != d.path));
    let checked: Vec<_> = specs
        .map(|spec| check(&spec.path, &spec.text, &functions))
        .collect();
    assert!(!checked.is_empty());
    for (spec, checker) in CITED_BY_CODE {
        assert!(documents.iter().any(|d| d.path == spec), "{spec} is gone");
        assert!(
            sources.iter().any(|s| s.path == checker),
            "{checker} is gone"
        );
    }
    assert_none(&checked.concat());
}

#[test]
fn a_rule_without_its_number_or_test_is_found() {
    let functions = functions(["fn holds() {} // fn comment()"].into_iter());
    let rules = |text: &str| check("a.md", text, &functions);
    assert_none(&rules(
        "# A\n\n**A-01** x *Tests:* `holds`.\n\n**A-02** y\nz *Tests:* none.",
    ));
    for bad in [
        "no rules",
        "**A-02** x *Tests:* `holds`.",
        "**A-01** x *Tests:* `holds`.\n\n**A-03** x *Tests:* `holds`.",
        "**A-01** x",
        "**A-01** x *Tests:* soon.",
        "**A-01** x *Tests:* `comment`.",
    ] {
        assert_eq!(rules(bad).len(), 1, "{bad}");
    }
}
