//! What this node pledged, on its disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use godwit_proto::cluster::Ledger;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::record::{RecordReader, RecordWriter};

/// The file of a node's pledges: replaced as a whole, and on disk before anybody acts on it.
pub(super) struct LedgerFile(PathBuf);

impl LedgerFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What it says; nothing if there is none yet.
    ///
    /// # Errors
    /// It cannot be read, or is damaged: then this node does not know what it promised.
    pub(super) fn load(&self) -> Result<Ledger, CodedError> {
        let refuse = |what: String| {
            let text = format!("the ledger {} is of no use: {what}", self.0.display());
            CodedError::new(ErrorCode::Other, text).with_fix(
                "this node no longer knows what it promised: remove it from the cluster with \
                 --force when its guests are gone, and join it again with an empty data directory",
            )
        };
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Ledger::default());
            }
            Err(error) => return Err(refuse(error.to_string())),
        };
        let read = RecordReader::new(&bytes).and_then(|mut reader| reader.one());
        read.map_err(|error| refuse(error.to_string()))
    }

    /// Writes `ledger`; it is on disk when this returns.
    ///
    /// # Errors
    /// It is not: the old one holds.
    pub(super) fn store(&self, ledger: &Ledger) -> Result<(), CodedError> {
        let failed = |error: &dyn std::fmt::Display| {
            let text = format!("cannot write the ledger {}: {error}", self.0.display());
            CodedError::new(ErrorCode::Other, text)
                .with_fix("make room on the disk of the data directory")
        };
        let mut writer = RecordWriter::new();
        writer.push(ledger).map_err(|error| failed(&error))?;
        let bytes = writer.finish().map_err(|error| failed(&error))?;
        replace(&self.0, &bytes).map_err(|error| failed(&error))
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::cluster::Pledge;
    use godwit_proto::id::{Epoch, GuestId, Revision};

    #[test]
    fn a_ledger_is_read_as_it_was_written_and_damage_is_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = LedgerFile::new(dir.path().join("ledger"));
        assert_eq!(file.load().unwrap(), Ledger::default());
        let ledger = Ledger {
            seen: Revision::new(7),
            pledges: vec![Pledge {
                guest: GuestId::from_bytes([1; 16]),
                begun: Epoch::new(3),
                spent: Epoch::new(2),
            }],
        };
        file.store(&ledger).unwrap();
        assert_eq!(file.load().unwrap(), ledger);
        let whole = fs::read(dir.path().join("ledger")).unwrap();
        for length in 0..whole.len() {
            fs::write(dir.path().join("ledger"), &whole[..length]).unwrap();
            assert!(file.load().is_err(), "{length}");
        }
    }
}
