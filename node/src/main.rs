//! The `godwit` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    godwit_node::cli::main()
}
