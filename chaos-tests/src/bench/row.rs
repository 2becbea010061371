//! One line of a result: what was measured, under both VMMs, and what was aimed at.

use std::fmt;

use serde::{Serialize, Serializer};

use super::samples::Samples;

/// What a row should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// At most this, in the row's unit.
    AtMost(f64),
    /// At least this, in the row's unit.
    AtLeast(f64),
    /// At most so many times the peer's.
    AtMostOfPeer(f64),
    /// At least so many times the peer's.
    AtLeastOfPeer(f64),
    /// Shown for information.
    Nothing,
}

impl Aim {
    fn met(self, godwit: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(bound) => godwit.map(|value| value <= bound),
            Self::AtLeast(bound) => godwit.map(|value| value >= bound),
            Self::AtMostOfPeer(bound) => ratio.map(|ratio| ratio <= bound),
            Self::AtLeastOfPeer(bound) => ratio.map(|ratio| ratio >= bound),
            Self::Nothing => None,
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMostOfPeer(bound) => write!(f, "<= {bound} x peer"),
            Self::AtLeastOfPeer(bound) => write!(f, ">= {bound} x peer"),
            Self::Nothing => f.write_str("-"),
        }
    }
}

impl Serialize for Aim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A line of the result. Godwit's and the peer's runs alternated.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Median for Godwit; none when it could not be measured.
    pub godwit: Option<f64>,
    /// Median for the peer; none when there is none or it has nothing to compare.
    pub peer: Option<f64>,
    /// Of both.
    pub unit: &'static str,
    /// Godwit's by the peer's.
    pub ratio: Option<f64>,
    /// What was aimed at.
    pub aim: Aim,
    /// Whether it was reached; none when that cannot be told.
    pub met: Option<bool>,
    /// What the peer is.
    pub peer_is: String,
    /// Smallest and largest for Godwit.
    pub godwit_spread: Option<[f64; 2]>,
    /// Smallest and largest for the peer.
    pub peer_spread: Option<[f64; 2]>,
    /// Repetitions: Godwit's and the peer's.
    pub repeats: [usize; 2],
    /// What to know when reading it; empty when there is nothing.
    pub note: String,
}

impl Row {
    /// A row of what both gave.
    #[must_use]
    pub fn new(what: impl Into<String>, unit: &'static str, godwit: &Samples, aim: Aim) -> Self {
        let row = Self {
            what: what.into(),
            godwit: godwit.median(),
            peer: None,
            unit,
            ratio: None,
            aim,
            met: None,
            peer_is: "-".to_owned(),
            godwit_spread: godwit.spread(),
            peer_spread: None,
            repeats: [godwit.count(), 0],
            note: String::new(),
        };
        row.judged()
    }

    /// With what `peer_is` gave in the same run; without samples the peer stays empty.
    #[must_use]
    pub fn beside(mut self, peer_is: impl Into<String>, peer: &Samples) -> Self {
        self.peer_is = peer_is.into();
        self.peer = peer.median();
        self.peer_spread = peer.spread();
        self.repeats[1] = peer.count();
        match self.peer {
            Some(_) => self.judged(),
            None => self.judged().note("the peer was not measured"),
        }
    }

    /// With a remark.
    #[must_use]
    pub fn note(mut self, note: impl AsRef<str>) -> Self {
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(note.as_ref());
        self
    }

    fn judged(mut self) -> Self {
        self.ratio = match (self.godwit, self.peer) {
            (Some(godwit), Some(peer)) if peer != 0.0 => Some(godwit / peer),
            _ => None,
        };
        self.met = self.aim.met(self.godwit, self.ratio);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|&value| samples.push(value));
        samples
    }

    #[test]
    fn a_row_compares_medians_and_judges_by_its_aim() {
        let row = Row::new("start", "ms", &samples(&[2.0]), Aim::AtMostOfPeer(0.2));
        assert_eq!(
            (row.ratio, row.met),
            (None, None),
            "nothing to compare with"
        );
        let near = row.clone().beside("q", &samples(&[9.0]));
        assert_eq!(near.met, Some(false));
        let far = row.beside("q", &samples(&[10.0, 99.0, 1.0]));
        assert_eq!((far.ratio, far.met), (Some(0.2), Some(true)));
    }

    #[test]
    fn an_absolute_aim_needs_no_peer() {
        let row = |value: f64| Row::new("pause", "ms", &samples(&[value]), Aim::AtMost(1.0));
        assert_eq!(row(1.0).met, Some(true));
        assert_eq!(row(1.1).met, Some(false));
        let unmeasured = Row::new("pause", "ms", &Samples::default(), Aim::AtMost(1.0));
        assert_eq!(unmeasured.met, None);
    }

    #[test]
    fn the_document_has_the_promised_keys() {
        let row = Row::new("x", "ms", &samples(&[1.0]), Aim::AtMost(1.0));
        let value = serde_json::to_value(row).unwrap();
        for key in ["what", "godwit", "peer", "unit", "ratio", "aim", "met"] {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["aim"], "<= 1");
    }
}
