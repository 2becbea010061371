//! The database file: what is in it, and whether it is all there.
//!
//! The only file that names redb, beside the errors that carry its own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use godwit_proto::raft::{LogEntry, LogId, Marks, SnapshotHead, StoreIdentity, Vote};
use godwit_proto::record::{Record, RecordError};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition, TableError, WriteTransaction,
};

use super::window::Window;
use super::{Logged, StoreError};

/// Entries of the log: a [`LogEntry`] each, by index.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// One record each: [`IDENTITY`], [`VOTE`], [`MARKS`], [`SNAPSHOT`].
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Chunks of snapshots, by the snapshot's number and their own.
const CHUNKS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("chunks");

const IDENTITY: &str = "identity";
const VOTE: &str = "vote";
const MARKS: &str = "marks";
const SNAPSHOT: &str = "snapshot";

/// The database's own cache. What is read often is in the window.
const CACHE_BYTES: usize = 16 << 20;

/// The database in the store's directory.
const FILE: &str = "store.redb";
/// Says whose store it is, from when the database is made: a database that is gone is not begun
/// anew.
const OWNER: &str = "store.owner";
/// There since damage was found that the database would mend by giving up what it held.
const DAMAGED: &str = "store.damaged";

/// The database of a store.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
    path: PathBuf,
}

/// What was found in it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) vote: Option<Vote>,
    pub(super) marks: Marks,
    pub(super) snapshot: Option<SnapshotHead>,
    /// The end of the log.
    pub(super) window: Window,
    /// The last entry, also when it is purged.
    pub(super) last: Option<LogId>,
}

impl Disk {
    /// The database in `directory`, made if there never was one.
    pub(super) fn open(directory: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).map_err(at(directory))?;
        let damaged = directory.join(DAMAGED);
        if damaged.try_exists().map_err(at(&damaged))? {
            return Err(StoreError::Damaged {
                path,
                problem: "it was found damaged when it was opened before".into(),
            });
        }
        let owner = directory.join(OWNER);
        let is_owned = owner.try_exists().map_err(at(&owner))?;
        if is_owned {
            let record = fs::read(&owner).map_err(at(&owner))?;
            check_owner(&record, identity)?;
            let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if length == 0 {
                return Err(StoreError::Damaged {
                    path,
                    problem: "the file is gone or empty".into(),
                });
            }
        }
        let disk = match guarded(&path, || Self::create(&path, identity, is_owned)) {
            Err(Opening::Store(error)) => return Err(error),
            Err(Opening::Mended) => {
                let note =
                    b"The database was damaged. What is left of it lacks what was acknowledged.\n";
                write_durably(directory, DAMAGED, note).map_err(at(&damaged))?;
                return Err(StoreError::Damaged {
                    path,
                    problem: "pages are not what was written".into(),
                });
            }
            Ok(disk) => disk,
        };
        if !is_owned {
            let record = encode(identity, "owner")?;
            write_durably(directory, OWNER, &record).map_err(at(&owner))?;
        }
        Ok(disk)
    }

    fn create(path: &Path, identity: &StoreIdentity, existed: bool) -> Result<Self, Opening> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let opened = match existed {
            true => builder.open(path),
            false => builder.create(path),
        };
        let database = opened.map_err(|error| open_error(path, error))?;
        Self::begin(database, path.to_owned(), identity)
    }

    /// The store in a database that has just been opened.
    pub(super) fn begin(
        mut database: Database,
        path: PathBuf,
        identity: &StoreIdentity,
    ) -> Result<Self, Opening> {
        let is_clean = database.check_integrity();
        if !is_clean.map_err(|error| open_error(&path, error))? {
            return Err(Opening::Mended);
        }
        let disk = Self { database, path };
        let owner = disk.meta::<StoreIdentity>(IDENTITY)?;
        match owner {
            Some(found) if found != *identity => Err(StoreError::OtherOwner {
                found,
                wanted: *identity,
            }),
            Some(_) => Ok(disk),
            None if disk.is_empty()? => disk.claim(identity),
            None => Err(disk.damaged("nobody's name is on it")),
        }
        .map_err(Opening::Store)
    }

    /// All that is in it, as far as it belongs in memory; every record is read and checked.
    pub(super) fn load(&self, window_bytes: usize) -> Result<Content, StoreError> {
        guarded(&self.path, || {
            self.load_records(window_bytes).map_err(Opening::Store)
        })
        .map_err(|error| error.into_store_error(&self.path))
    }

    fn load_records(&self, window_bytes: usize) -> Result<Content, StoreError> {
        let vote = self.meta::<Vote>(VOTE)?;
        let marks = self.meta::<Marks>(MARKS)?.unwrap_or_default();
        let snapshot = self.meta::<SnapshotHead>(SNAPSHOT)?;
        let mut window = Window::new(window_bytes);
        let mut next = marks
            .purged
            .map_or(0, |purged| purged.index.saturating_add(1));
        let mut last = marks.purged;
        let read = self.database.begin_read().map_err(reading)?;
        if let Some(log) = table(read.open_table(LOG))? {
            for item in log.iter().map_err(reading)? {
                let (index, bytes) = item.map_err(reading)?;
                let entry = decode(index.value(), bytes.value())?;
                if entry.id.index != next {
                    let found = entry.id.index;
                    return Err(self.damaged(format!("entry {found} is where {next} should be")));
                }
                next = next.saturating_add(1);
                last = Some(entry.id);
                window.push(entry);
                window.trim(u64::MAX);
            }
        }
        self.check_snapshot(snapshot.as_ref(), &read)?;
        let content = Content {
            vote,
            marks,
            snapshot,
            window,
            last,
        };
        self.check(&content)?;
        Ok(content)
    }

    /// What holds between the records of a store, whenever its process was killed.
    fn check(&self, content: &Content) -> Result<(), StoreError> {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index.saturating_add(1));
        let in_snapshot = index(content.snapshot.as_ref().and_then(|head| head.last));
        if index(content.marks.purged) > in_snapshot {
            return Err(self.damaged("entries are purged that no snapshot has"));
        }
        if index(content.marks.committed) > index(content.last).max(in_snapshot) {
            return Err(self.damaged("entries that were committed are missing"));
        }
        Ok(())
    }

    fn check_snapshot(
        &self,
        head: Option<&SnapshotHead>,
        read: &ReadTransaction,
    ) -> Result<(), StoreError> {
        let Some(head) = head else {
            return Ok(());
        };
        let chunks = table(read.open_table(CHUNKS))?;
        if usize::try_from(head.chunks) != Ok(head.checksums.len()) {
            return Err(self.damaged("its snapshot does not fit together"));
        }
        for (chunk, wanted) in (0..head.chunks).zip(&head.checksums) {
            let found = match &chunks {
                Some(chunks) => chunks.get((head.number, chunk)).map_err(reading)?,
                None => None,
            };
            if found.is_none_or(|bytes| crc32c::crc32c(bytes.value()) != *wanted) {
                return Err(self.damaged(format!("chunk {chunk} of its snapshot")));
            }
        }
        Ok(())
    }

    /// The entries of `range` that are here, as many as fit `budget_bytes`, at least one.
    pub(super) fn entries(
        &self,
        range: Range<u64>,
        budget_bytes: usize,
    ) -> Result<Vec<Logged>, StoreError> {
        let read = self.database.begin_read().map_err(reading)?;
        let Some(log) = table(read.open_table(LOG))? else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for item in log.range(range).map_err(reading)? {
            let (index, record) = item.map_err(reading)?;
            let entry = decode(index.value(), record.value())?;
            bytes += entry.weight();
            if bytes > budget_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The chunks of a snapshot.
    pub(super) fn chunks(&self, head: &SnapshotHead) -> Result<Vec<Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(reading)?;
        let table = table(read.open_table(CHUNKS))?;
        let mut chunks = Vec::new();
        for (chunk, wanted) in (0..head.chunks).zip(&head.checksums) {
            let found = match &table {
                Some(table) => table.get((head.number, chunk)).map_err(reading)?,
                None => None,
            };
            let bytes = found
                .map(|found| found.value().to_vec())
                .unwrap_or_default();
            if crc32c::crc32c(&bytes) != *wanted {
                return Err(self.damaged(format!("chunk {chunk} of its snapshot")));
            }
            chunks.push(bytes);
        }
        Ok(chunks)
    }

    /// Makes all changes of `write` durable, or none.
    pub(super) fn commit(
        &self,
        write: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let outcome = guarded(&self.path, || {
            let transaction = self.database.begin_write().map_err(writing)?;
            write(&Changes {
                transaction: &transaction,
            })?;
            Ok(transaction.commit().map_err(writing)?)
        });
        outcome.map_err(|error| error.into_store_error(&self.path))
    }

    #[cfg(test)]
    pub(super) fn count_chunks(&self) -> u64 {
        let read = self.database.begin_read().unwrap();
        read.open_table(CHUNKS).unwrap().len().unwrap()
    }

    fn claim(self, identity: &StoreIdentity) -> Result<Self, StoreError> {
        self.commit(|changes| {
            changes.put_meta(IDENTITY, identity)?;
            // All tables are there from now on, whatever is read first.
            changes.table(LOG)?;
            changes.table(CHUNKS).map(drop)
        })?;
        Ok(self)
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let read = self.database.begin_read().map_err(reading)?;
        let meta = table(read.open_table(META))?;
        let log = table(read.open_table(LOG))?;
        let meta = meta.map_or(Ok(0), |meta| meta.len()).map_err(reading)?;
        let log = log.map_or(Ok(0), |log| log.len()).map_err(reading)?;
        Ok(meta + log == 0)
    }

    fn meta<R: Record>(&self, key: &'static str) -> Result<Option<R>, StoreError> {
        let read = self.database.begin_read().map_err(reading)?;
        let Some(meta) = table(read.open_table(META))? else {
            return Ok(None);
        };
        let found = meta.get(key).map_err(reading)?;
        let decoded = found.map(|bytes| R::decode(bytes.value())).transpose();
        decoded.map_err(record_error(key))
    }

    fn damaged(&self, problem: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            problem: problem.into(),
        }
    }
}

/// Changes that become durable together.
pub(super) struct Changes<'a> {
    transaction: &'a WriteTransaction,
}

impl Changes<'_> {
    /// Adds entries, encoded, by index.
    pub(super) fn append(
        &self,
        entries: impl Iterator<Item = (u64, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let mut log = self.table(LOG)?;
        for (index, bytes) in entries {
            log.insert(index, bytes.as_slice()).map_err(writing)?;
        }
        Ok(())
    }

    /// Drops the entries of `range`.
    pub(super) fn remove(&self, range: Range<u64>) -> Result<(), StoreError> {
        let mut log = self.table(LOG)?;
        log.retain_in(range, |_, _| false).map_err(writing)
    }

    pub(super) fn put_vote(&self, vote: &Vote) -> Result<(), StoreError> {
        self.put_meta(VOTE, vote)
    }

    pub(super) fn put_marks(&self, marks: &Marks) -> Result<(), StoreError> {
        self.put_meta(MARKS, marks)
    }

    /// Adds a chunk of a snapshot that is not the store's yet.
    pub(super) fn put_chunk(
        &self,
        number: u64,
        chunk: u32,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let mut chunks = self.table(CHUNKS)?;
        chunks.insert((number, chunk), bytes).map_err(writing)?;
        Ok(())
    }

    /// Makes a snapshot the store's; all its chunks are there.
    pub(super) fn put_snapshot(&self, head: &SnapshotHead) -> Result<(), StoreError> {
        self.put_meta(SNAPSHOT, head)
    }

    /// Drops the chunks of a snapshot.
    pub(super) fn drop_chunks(&self, number: u64) -> Result<(), StoreError> {
        let mut chunks = self.table(CHUNKS)?;
        let range = (number, 0)..=(number, u32::MAX);
        chunks.retain_in(range, |_, _| false).map_err(writing)
    }

    /// Drops the chunks of every snapshot but this one: those that were never completed.
    pub(super) fn drop_other_chunks(&self, number: Option<u64>) -> Result<(), StoreError> {
        let mut chunks = self.table(CHUNKS)?;
        let keep = |(found, _): (u64, u32), _: &[u8]| Some(found) == number;
        chunks.retain(keep).map_err(writing)
    }

    fn put_meta(&self, key: &'static str, record: &impl Record) -> Result<(), StoreError> {
        let bytes = encode(record, key)?;
        let mut meta = self.table(META)?;
        meta.insert(key, bytes.as_slice()).map_err(writing)?;
        Ok(())
    }

    fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Table<'_, K, V>, StoreError> {
        self.transaction.open_table(definition).map_err(writing)
    }
}

/// An entry as it stands in the log.
pub(super) fn encode_entry(entry: &Logged) -> Result<Vec<u8>, StoreError> {
    encode(&entry.to_record(), "log entry")
}

fn encode(record: &impl Record, what: &str) -> Result<Vec<u8>, StoreError> {
    record.encode().map_err(record_error(what))
}

fn decode(index: u64, bytes: &[u8]) -> Result<Logged, StoreError> {
    let record = LogEntry::decode(bytes).map_err(record_error(&format!("log entry {index}")))?;
    if record.id.index != index {
        return Err(StoreError::Record {
            what: format!("log entry {index}"),
            source: RecordError::WrongKind {
                found: 0,
                wanted: LogEntry::KIND,
            },
        });
    }
    Logged::from_record(record).map_err(|source| StoreError::Command { index, source })
}

fn record_error(what: &str) -> impl FnOnce(RecordError) -> StoreError {
    let what = what.to_owned();
    move |source| StoreError::Record { what, source }
}

fn reading(source: impl Into<redb::Error>) -> StoreError {
    StoreError::database("read", source)
}

fn writing(source: impl Into<redb::Error>) -> StoreError {
    StoreError::database("write to", source)
}

/// A table, if it was ever written to.
fn table<T>(opened: Result<T, TableError>) -> Result<Option<T>, StoreError> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(reading(error)),
    }
}

fn check_owner(record: &[u8], identity: &StoreIdentity) -> Result<(), StoreError> {
    let found = StoreIdentity::decode(record).map_err(record_error("owner"))?;
    match found == *identity {
        true => Ok(()),
        false => Err(StoreError::OtherOwner {
            found,
            wanted: *identity,
        }),
    }
}

/// Why a database was not opened.
#[derive(Debug)]
pub(super) enum Opening {
    Store(StoreError),
    /// It was damaged, and has given up what it held.
    Mended,
}

impl Opening {
    pub(super) fn into_store_error(self, path: &Path) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Mended => StoreError::Damaged {
                path: path.to_owned(),
                problem: "pages are not what was written".into(),
            },
        }
    }
}

impl From<StoreError> for Opening {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn open_error(path: &Path, error: redb::DatabaseError) -> StoreError {
    use redb::{DatabaseError, StorageError};
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            StoreError::Io { path, source }
        }
        error => StoreError::Damaged {
            path,
            problem: error.to_string(),
        },
    }
}

/// Damage can make the database fail an assertion of its own; that is damage, not a bug to die of.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, Opening>) -> Result<T, Opening> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Opening::Store(StoreError::Damaged {
            path: path.to_owned(),
            problem: format!("reading it failed: {}", text.unwrap_or("no reason given")),
        }))
    })
}

/// A small file that is there whole, or not at all, when this returns.
fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(name).with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
