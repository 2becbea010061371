//! Wire and saved state.
