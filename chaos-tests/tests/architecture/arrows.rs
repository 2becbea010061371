//! `proto <- {vmm, migration, control-plane} <- node <- chaos-tests`, and what each must do without.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::code::{code_only, words};
use crate::{Violations, assert_none, tree};

/// Each crate by its folder, and those it may use.
const ARROWS: [(&str, &[&str]); 6] = [
    ("proto", &[]),
    ("vmm", &["proto"]),
    ("migration", &["proto"]),
    ("control-plane", &["proto"]),
    ("node", &["proto", "vmm", "migration", "control-plane"]),
    (
        "chaos-tests",
        &["proto", "vmm", "migration", "control-plane", "node"],
    ),
];

/// What never becomes part of a crate, by whatever way.
const WITHOUT: [(&str, &[&str]); 4] = [
    // Bytes in, values out: no runtime, no sockets, no randomness.
    ("proto", &["tokio", "mio", "socket2", "libc", "rustix"]),
    // Threads, no async runtime; no other host.
    ("vmm", &["tokio", "quinn", "openraft"]),
    // Knows neither KVM nor Raft.
    ("migration", &["kvm-ioctls", "kvm-bindings", "openraft"]),
    // Never touches a guest.
    (
        "control-plane",
        &["kvm-ioctls", "kvm-bindings", "vm-memory"],
    ),
];

fn allowed(folder: &str) -> Option<&'static [&'static str]> {
    let found = ARROWS.iter().find(|(name, _)| *name == folder);
    found.map(|(_, allowed)| *allowed)
}

/// What the manifests say: every kind of dependency counts, those of tests and build scripts too.
fn check_manifests(metadata: &Value) -> Violations {
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for package in members(metadata) {
        let name = package["name"].as_str().unwrap();
        let folder = name.strip_prefix("godwit-").unwrap_or(name);
        let Some(allowed) = allowed(folder) else {
            violations.push(format!("crate {name} has no place in the house"));
            continue;
        };
        seen.insert(folder);
        for dependency in package["dependencies"].as_array().unwrap() {
            let uses = dependency["name"].as_str().unwrap();
            if let Some(used) = uses.strip_prefix("godwit-")
                && !allowed.contains(&used)
            {
                violations.push(format!("{name} must not depend on {uses}"));
            }
        }
    }
    let missing = ARROWS.iter().filter(|(folder, _)| !seen.contains(folder));
    violations.extend(missing.map(|(folder, _)| format!("crate godwit-{folder} is missing")));
    violations
}

/// What the sources name, in whatever way it got there.
fn check_names(path: &str, text: &str) -> Violations {
    let folder = path.split('/').next().unwrap_or_default();
    let Some(allowed) = allowed(folder) else {
        return vec![format!("{path}: a source outside of every crate")];
    };
    let code = code_only(text);
    let named: BTreeSet<_> = words(&code)
        .filter_map(|(_, word)| word.strip_prefix("godwit_"))
        .map(|name| name.replace('_', "-"))
        .collect();
    named
        .into_iter()
        .filter(|name| ARROWS.iter().any(|(crate_name, _)| crate_name == name))
        .filter(|name| name != folder && !allowed.contains(&name.as_str()))
        .map(|name| format!("{path}: names godwit-{name}"))
        .collect()
}

/// What is linked into each crate in the end.
fn check_closure(metadata: &Value) -> Violations {
    let name_of: BTreeMap<_, _> = packages(metadata)
        .map(|package| {
            (
                package["id"].as_str().unwrap(),
                package["name"].as_str().unwrap(),
            )
        })
        .collect();
    let uses: BTreeMap<_, Vec<_>> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), linked(node)))
        .collect();
    let mut violations = Vec::new();
    for (folder, without) in WITHOUT {
        let package = format!("godwit-{folder}");
        let Some(start) = name_of.iter().find(|(_, name)| **name == package) else {
            violations.push(format!("crate {package} is missing"));
            continue;
        };
        let mut reached = BTreeSet::new();
        let mut open = vec![*start.0];
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend(&uses[id]);
            }
        }
        let names: BTreeSet<_> = reached.into_iter().map(|id| name_of[id]).collect();
        let found = without.iter().filter(|name| names.contains(*name));
        violations.extend(found.map(|name| format!("{package} must do without {name}")));
    }
    violations
}

/// The packages that a package is linked with: not those of its tests or build script.
fn linked(node: &Value) -> Vec<&str> {
    let is_linked = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    let dependencies = node["deps"].as_array().unwrap().iter();
    dependencies
        .filter(is_linked)
        .map(|dependency| dependency["pkg"].as_str().unwrap())
        .collect()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().unwrap().iter()
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let members = metadata["workspace_members"].as_array().unwrap();
    packages(metadata).filter(|package| members.contains(&package["id"]))
}

#[test]
fn no_manifest_goes_against_the_arrows() {
    assert_none(&check_manifests(&tree::cargo_metadata()));
}

#[test]
fn no_source_goes_against_the_arrows() {
    let sources = tree::sources(&["rs"]);
    let violations: Violations = sources
        .iter()
        .flat_map(|source| check_names(&source.path, &source.text))
        .collect();
    assert_none(&violations);
}

#[test]
fn no_crate_is_linked_with_what_it_must_do_without() {
    assert_none(&check_closure(&tree::cargo_metadata()));
}

fn workspace(dependencies: &[(&str, &[&str])]) -> Value {
    let packages: Vec<_> = dependencies
        .iter()
        .map(|(name, uses)| {
            let uses: Vec<_> = uses.iter().map(|name| json!({"name": name})).collect();
            json!({"name": name, "id": name, "dependencies": uses})
        })
        .collect();
    let members: Vec<_> = dependencies.iter().map(|(name, _)| *name).collect();
    let nodes: Vec<_> = dependencies
        .iter()
        .map(|(name, uses)| {
            let deps: Vec<_> = uses
                .iter()
                .map(|name| json!({"pkg": name, "dep_kinds": [{"kind": null}]}))
                .collect();
            json!({"id": name, "deps": deps})
        })
        .collect();
    json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}})
}

const GOOD: [(&str, &[&str]); 6] = [
    ("godwit-proto", &[]),
    ("godwit-vmm", &["godwit-proto"]),
    ("godwit-migration", &["godwit-proto"]),
    ("godwit-control-plane", &["godwit-proto"]),
    ("godwit-node", &["godwit-vmm"]),
    ("godwit-chaos-tests", &["godwit-node"]),
];

#[test]
fn a_manifest_against_the_arrows_is_found() {
    assert_none(&check_manifests(&workspace(&GOOD)));
    for (index, uses) in [
        (0, "godwit-vmm"),
        (1, "godwit-migration"),
        (1, "godwit-node"),
        (2, "godwit-control-plane"),
        (3, "godwit-vmm"),
        (4, "godwit-chaos-tests"),
    ] {
        let mut bad = GOOD;
        let uses = [uses];
        bad[index].1 = &uses;
        let violations = check_manifests(&workspace(&bad));
        assert_eq!(violations.len(), 1, "{} -> {uses:?}", bad[index].0);
    }
}

#[test]
fn a_crate_without_a_place_and_a_missing_crate_are_found() {
    let mut bad = GOOD;
    bad[5].0 = "godwit-utils";
    assert_eq!(
        check_manifests(&workspace(&bad)),
        [
            "crate godwit-utils has no place in the house",
            "crate godwit-chaos-tests is missing"
        ]
    );
}

#[test]
fn a_source_that_names_a_crate_against_the_arrows_is_found() {
    let uses_vmm = "fn f() { godwit_vmm::guest::build(); }";
    for path in [
        "migration/src/a.rs",
        "control-plane/tests/b.rs",
        "proto/src/c.rs",
    ] {
        assert_eq!(
            check_names(path, uses_vmm),
            [format!("{path}: names godwit-vmm")]
        );
    }
    for path in ["vmm/tests/a.rs", "node/src/a.rs", "chaos-tests/src/a.rs"] {
        assert_none(&check_names(path, uses_vmm));
    }
    assert_none(&check_names(
        "proto/src/a.rs",
        "// see godwit_vmm\nconst A: &str = \"godwit_vmm\";",
    ));
    assert_eq!(check_names("tools/a.rs", "").len(), 1);
}

#[test]
fn what_is_linked_by_a_detour_is_found() {
    let mut bad = GOOD.to_vec();
    bad[0].1 = &["nice"];
    bad.push(("nice", &["tokio"]));
    bad.push(("tokio", &[]));
    assert_eq!(
        check_closure(&workspace(&bad)),
        [
            "godwit-proto must do without tokio",
            "godwit-vmm must do without tokio"
        ]
    );
}
