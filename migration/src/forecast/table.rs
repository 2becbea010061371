//! The forecast for people.

use std::fmt;

use super::{Ending, Forecast};
use crate::ports::PAGE_BYTES;
use crate::report::{Bytes, Ms};

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match self.ending {
            Ending::Switch => "the guest switches with all its memory",
            Ending::PostCopy => "the guest switches, and memory follows it",
            Ending::TimeUp => "the time runs out, and the guest stays",
        };
        writeln!(f, "mode       {}", self.mode)?;
        writeln!(f, "ending     {ending}")?;
        let converges = match self.converges {
            true => "yes",
            false => "not by itself",
        };
        writeln!(f, "converges  {converges}")?;
        writeln!(f, "total      {}", Ms(self.total))?;
        writeln!(f, "blackout   {}", Ms(self.blackout))?;
        writeln!(
            f,
            "sent       {} in {} rounds",
            Bytes(self.wire_bytes),
            self.rounds
        )?;
        if self.throttle_percent > 0 {
            writeln!(f, "throttle   up to {} %", self.throttle_percent)?;
        }
        let content = self.content_pages.saturating_mul(PAGE_BYTES as u64);
        writeln!(f, "memory     {} that is not zero", Bytes(content))?;
        writeln!(
            f,
            "a page     {} on the wire, {} when it is sent again",
            Bytes(self.page_wire_bytes as u64),
            Bytes(self.again_wire_bytes as u64)
        )?;
        writeln!(f, "link       {}/s", Bytes(self.link_rate as u64))?;
        let written = self.dirty_rate * PAGE_BYTES as f64;
        writeln!(f, "written    {}/s, each page once", Bytes(written as u64))
    }
}
