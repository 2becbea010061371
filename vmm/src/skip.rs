//! Tests that cannot run here say so.

/// Says that a test is skipped, past the test runner's capture of output.
macro_rules! skipped {
    ($($why:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}", format_args!($($why)*));
    }};
}

pub(crate) use skipped;
