//! The licences of everything that is built in: permissive ones, or a choice of one.

use crate::{Violations, assert_none, tree};

/// Licences that may be part of what is built.
const ALLOWED: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Whether an SPDX expression leaves a way to use what it covers. `OR` binds weaker than `AND`;
/// `/` is what old manifests write for `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens };
    parser.any_of() && parser.tokens.is_empty()
}

struct Parser<'a> {
    tokens: &'a [&'a str],
}

impl Parser<'_> {
    fn any_of(&mut self) -> bool {
        let mut allowed = self.all_of();
        while self.take("OR") {
            allowed |= self.all_of();
        }
        allowed
    }

    fn all_of(&mut self) -> bool {
        let mut allowed = self.one();
        while self.take("AND") {
            allowed &= self.one();
        }
        allowed
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            return self.any_of() & self.take(")");
        }
        let Some((name, rest)) = self.tokens.split_first() else {
            return false;
        };
        self.tokens = rest;
        // An exception only ever allows more.
        if self.take("WITH") {
            self.tokens = self.tokens.get(1..).unwrap_or_default();
        }
        ALLOWED.contains(name)
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.tokens.first() == Some(&token);
        if taken {
            self.tokens = &self.tokens[1..];
        }
        taken
    }
}

fn check<'a>(packages: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Violations {
    packages
        .filter(|(_, licence)| !licence.is_some_and(is_allowed))
        .map(|(name, licence)| format!("{name}: licence {}", licence.unwrap_or("is not named")))
        .collect()
}

#[test]
fn everything_that_is_built_in_has_a_permissive_licence() {
    let metadata = tree::cargo_metadata();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 6, "cargo names the dependencies too");
    let licences = packages.iter().map(|package| {
        let name = package["name"].as_str().unwrap();
        (name, package["license"].as_str())
    });
    assert_none(&check(licences));
}

#[test]
fn a_licence_that_is_not_permissive_is_found() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "MPL-2.0 OR LGPL-2.1",
        "(MIT",
        "MIT MIT",
        "AND",
    ] {
        assert!(!is_allowed(bad), "{bad:?}");
    }
    let packages = [("a", Some("MIT")), ("b", None), ("c", Some("AGPL-3.0"))];
    assert_eq!(
        check(packages.into_iter()),
        ["b: licence is not named", "c: licence AGPL-3.0"]
    );
}
