//! The scheduler as a whole.

mod agreement;
mod explanations;
mod rules;
mod speed;
mod world;
