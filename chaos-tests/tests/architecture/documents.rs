//! Documents: links lead somewhere, decisions are listed and say what they must.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::Source;
use crate::{Violations, assert_none, tree};

/// Where every decision is listed.
const INDEX: &str = "docs/ARCHITECTURE.md";
/// What a decision has, in this order.
const DECISION: [&str; 4] = [
    "## Context",
    "## Decision",
    "## Alternatives",
    "## Consequences",
];

/// The targets of a document's links, with their lines; code is not looked into.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut fenced = false;
    for (line, text) in text.lines().enumerate() {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Code between backticks is every second part.
        let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join("_");
        for (_, rest) in prose
            .match_indices("](")
            .map(|(at, mark)| prose.split_at(at + mark.len()))
        {
            if let Some((target, _)) = rest.split_once(')') {
                links.push((line + 1, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors of a document: its headings as web pages of repositories name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// `folder` and a relative path, without `.` and `..`; `None` when it leaves the repository.
fn resolve(folder: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn check_links(documents: &[Source], paths: &BTreeSet<String>) -> Violations {
    let text_of: BTreeMap<_, _> = documents
        .iter()
        .map(|d| (d.path.as_str(), d.text.as_str()))
        .collect();
    let exists = |path: &str| {
        let folder = format!("{path}/");
        paths.contains(path) || path.is_empty() || paths.iter().any(|p| p.starts_with(&folder))
    };
    let mut violations = Vec::new();
    for document in documents {
        let folder = document
            .path
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        for (line, target) in links(&document.text) {
            if target.contains("://") {
                continue;
            }
            let (relative, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match relative {
                "" => Some(document.path.clone()),
                relative => resolve(folder, relative),
            };
            let found = path.filter(|path| exists(path)).is_some_and(|path| {
                anchor.is_empty()
                    || text_of
                        .get(path.as_str())
                        .is_some_and(|t| anchors(t).contains(anchor))
            });
            if !found {
                violations.push(format!("{}:{line}: {target} leads nowhere", document.path));
            }
        }
    }
    violations
}

fn check_decisions(decisions: &[&Source], index: &str) -> Violations {
    let mut violations = Vec::new();
    let listed: BTreeSet<_> = links(index).into_iter().map(|(_, target)| target).collect();
    for (number, decision) in (1..).zip(decisions) {
        let path = &decision.path;
        let name = path.trim_start_matches("docs/");
        if !name.starts_with(&format!("adr/{number:04}-")) {
            violations.push(format!("{path}: the next number is {number:04}"));
        }
        if !listed.contains(name) {
            violations.push(format!("{path} is not listed in {INDEX}"));
        }
        let headings: Vec<_> = decision
            .text
            .lines()
            .filter(|line| line.starts_with("## "))
            .collect();
        if headings != DECISION {
            violations.push(format!("{path} has the headings {headings:?}"));
        }
    }
    violations
}

#[test]
fn every_link_leads_somewhere() {
    assert_none(&check_links(
        &tree::sources(&["md"]),
        &tree::paths().into_iter().collect(),
    ));
}

#[test]
fn every_decision_is_numbered_complete_and_listed() {
    let documents = tree::sources(&["md"]);
    let decisions: Vec<_> = documents
        .iter()
        .filter(|d| d.path.starts_with("docs/adr/"))
        .collect();
    assert!(!decisions.is_empty());
    assert_none(&check_decisions(&decisions, &tree::read(INDEX)));
}

fn document(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: text.into(),
    }
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let target = document("docs/b.md", "# The *one* thing\n");
    let paths: BTreeSet<_> = ["docs/a.md", "docs/b.md", "vmm/src/lib.rs"]
        .map(String::from)
        .into();
    for good in [
        "b.md",
        "../vmm",
        "../vmm/src/lib.rs",
        "b.md#the-one-thing",
        "https://example.org/x",
        "#me",
    ] {
        let documents = [
            document("docs/a.md", &format!("## Me\nsee [x]({good})")),
            document("docs/b.md", &target.text),
        ];
        assert_none(&check_links(&documents, &paths));
    }
    for bad in [
        "c.md",
        "../../b.md",
        "../vm",
        "b.md#other",
        "/docs/b.md",
        "#you",
    ] {
        let documents = [
            document("docs/a.md", &format!("## Me\nsee [x]({bad})")),
            document("docs/b.md", &target.text),
        ];
        assert_eq!(
            check_links(&documents, &paths),
            [format!("docs/a.md:2: {bad} leads nowhere")]
        );
    }
    assert!(links("`[x](no)`\n```\n[x](no)\n```\n").is_empty());
}

#[test]
fn a_decision_that_is_misnumbered_incomplete_or_unlisted_is_found() {
    let text = DECISION.join("\n\n");
    let one = document("docs/adr/0001-a.md", &text);
    assert_none(&check_decisions(&[&one], "[a](adr/0001-a.md)"));
    assert_eq!(check_decisions(&[&one], "nothing").len(), 1);
    let two = document("docs/adr/0003-b.md", &text);
    assert_eq!(
        check_decisions(&[&one, &two], "[a](adr/0001-a.md) [b](adr/0003-b.md)").len(),
        1
    );
    let bare = document("docs/adr/0001-a.md", "## Decision");
    assert_eq!(check_decisions(&[&bare], "[a](adr/0001-a.md)").len(), 1);
}
