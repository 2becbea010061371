//! `bench SUBJECT [--quick] [--json] [--only PART]`: see `docs/benchmarks.md`.

use std::process::ExitCode;

use godwit_chaos_tests::bench::{Bench, Subject, control};

const USAGE: &str = "\
usage: bench SUBJECT [--quick] [--json] [--only PART]
  --quick  fewer repeats, ends in minutes
  --json   one JSON document on standard output
  --only   the parts whose name contains PART";

/// How it is used, with the subjects and their parts.
fn usage() -> String {
    let mut text = format!("{USAGE}\nsubjects and their parts:\n");
    for (name, subject) in Subject::ALL {
        text += &format!("  {name}: {}\n", subject.parts().join("; "));
    }
    text
}

/// A wrong command line.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Not for use by hand: a voter of the subject `control`.
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "voter"
    {
        return match control::run_voter(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench voter: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let (mut subject, mut quick, mut json, mut only) = (None, false, false, String::new());
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), Subject::named(&argument)) {
            ("--quick", _) => quick = true,
            ("--json", _) => json = true,
            ("--only", _) => only = arguments.next().unwrap_or_default(),
            ("--help" | "-h", _) => {
                print!("{}", usage());
                return ExitCode::SUCCESS;
            }
            (_, Some(named)) if subject.is_none() => subject = Some(named),
            _ => {
                eprintln!("bench: {argument:?} is not known here\n{}", usage());
                return ExitCode::from(USAGE_ERROR);
            }
        }
    }
    let Some(subject) = subject else {
        eprint!("{}", usage());
        return ExitCode::from(USAGE_ERROR);
    };
    let bench = match Bench::prepare(subject, quick, &only) {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    let document = bench.measure(subject);
    if json {
        match serde_json::to_string_pretty(&document) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("bench: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        print!("{}", document.table());
    }
    // A missed aim is a result; only what was not measured is a failure.
    if document.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
