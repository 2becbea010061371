//! The parts of the `godwit` program.
