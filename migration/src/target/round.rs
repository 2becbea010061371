//! Counts the batches of a round until all are there (MIG-15).

use godwit_proto::migrate::RoundTotals;

/// A round that has not been acknowledged.
#[derive(Debug)]
pub(super) struct OpenRound {
    pub(super) round: u32,
    begun: bool,
    applied: Vec<u64>,
    pages: u64,
    totals: Option<RoundTotals>,
}

impl OpenRound {
    pub(super) fn new(round: u32, streams: u16) -> Self {
        Self {
            round,
            begun: false,
            applied: vec![0; streams.into()],
            pages: 0,
            totals: None,
        }
    }

    /// Whether anything is known of it.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun && self.totals.is_none() && self.applied.iter().all(|&batches| batches == 0)
    }

    pub(super) fn begin(&mut self, round: u32) -> Result<(), &'static str> {
        if round != self.round || self.begun {
            return Err("the beginning of a round out of order");
        }
        self.begun = true;
        Ok(())
    }

    /// A batch is in memory; batches may overtake the beginning of their round.
    pub(super) fn apply(
        &mut self,
        round: u32,
        stream: u16,
        pages: u64,
    ) -> Result<(), &'static str> {
        if round != self.round {
            return Err("a batch of another round");
        }
        let Some(applied) = self.applied.get_mut(usize::from(stream)) else {
            return Err("a batch on a stream that was not offered");
        };
        *applied += 1;
        self.pages = self.pages.saturating_add(pages);
        Ok(())
    }

    pub(super) fn end(&mut self, round: u32, totals: RoundTotals) -> Result<(), &'static str> {
        if round != self.round || !self.begun || self.totals.is_some() {
            return Err("the end of a round out of order");
        }
        if totals.batches.len() != self.applied.len() {
            return Err("a round's end with other streams than offered");
        }
        self.totals = Some(totals);
        Ok(())
    }

    /// Whether every batch that was sent is in memory.
    pub(super) fn is_complete(&self) -> Result<bool, &'static str> {
        let Some(totals) = &self.totals else {
            return Ok(false);
        };
        if self
            .applied
            .iter()
            .zip(&totals.batches)
            .any(|(have, sent)| have > sent)
        {
            return Err("more batches than a round's end counts");
        }
        if self.applied != totals.batches {
            return Ok(false);
        }
        if self.pages != totals.pages {
            return Err("another number of pages than a round's end counts");
        }
        Ok(true)
    }
}
