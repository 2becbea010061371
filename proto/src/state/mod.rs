//! The saved state of a guest: one plain, versioned record per part.
