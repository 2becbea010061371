//! A writer of `newc` cpio archives, the form the kernel unpacks an initramfs from.
//!
//! Layout: kernel `Documentation/driver-api/early-userspace/buffer-format.rst`.
//! Each entry is a 110-byte header of ASCII hex, the name with a NUL, the data;
//! header plus name and data are each padded to 4 bytes. Folders above an entry
//! are added by the writer, because the kernel creates none by itself. It writes
//! no device nodes (devtmpfs makes those), owners (all root) or hard links.

use std::collections::BTreeSet;
use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const FOLDER: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;

/// Writes one archive; [`Cpio::finish`] closes it.
#[derive(Debug)]
pub struct Cpio<W> {
    out: W,
    entries: u32,
    known: BTreeSet<String>,
}

impl<W: Write> Cpio<W> {
    /// An empty archive on `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            entries: 0,
            known: BTreeSet::new(),
        }
    }

    /// Adds a folder (and those above it), mode 0755.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.known.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, FOLDER, &[])
    }

    /// Adds a regular file. `permissions` are the low nine mode bits.
    ///
    /// # Errors
    /// When the archive cannot be written, the path is there already, or the data
    /// is larger than the format can say (4 GiB).
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> io::Result<()> {
        let path = self.claim(path)?;
        self.entry(&path, REGULAR | (permissions & 0o777), data)
    }

    /// Adds a symbolic link at `path`.
    ///
    /// # Errors
    /// When the archive cannot be written or the path is there already.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = self.claim(path)?;
        self.entry(&path, SYMLINK, target.as_bytes())
    }

    /// Writes the end mark and hands the output back.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn claim(&mut self, path: &str) -> io::Result<String> {
        let path = path.trim_matches('/').to_owned();
        if path.is_empty() || !self.known.insert(path.clone()) {
            let said = format!("archive path `{path}` is empty or taken");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, said));
        }
        self.parents(&path)?;
        Ok(path)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned());
        let size = u32::try_from(data.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let (uid, gid, mtime, device) = (0, 0, 0, 0);
        let fields = [
            self.entries,
            mode,
            uid,
            gid,
            links,
            mtime,
            size,
            device,
            device,
            device,
            device,
            name_size,
            0,
        ];
        let mut header = String::from(MAGIC);
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Entry {
        name: String,
        mode: u32,
        data: Vec<u8>,
    }

    /// Reads an archive by the layout's own words, independent of the writer.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let total = bytes.len();
        let mut entries = Vec::new();
        loop {
            assert_eq!((total - bytes.len()) % 4, 0, "headers are aligned to 4");
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let start = 6 + index * 8;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), (110 + name_size).next_multiple_of(4));
                return entries;
            }
            let start = (110 + name_size).next_multiple_of(4);
            entries.push(Entry {
                name: name.to_owned(),
                mode,
                data: bytes[start..start + size].to_vec(),
            });
            bytes = &bytes[start + size.next_multiple_of(4)..];
        }
    }

    fn entry(name: &str, mode: u32, data: &[u8]) -> Entry {
        Entry {
            name: name.to_owned(),
            mode,
            data: data.to_vec(),
        }
    }

    #[test]
    fn what_was_written_reads_back_with_every_padding() {
        let mut cpio = Cpio::new(Vec::new());
        let mut expected = Vec::new();
        for length in 0..9_usize {
            let (name, data) = ("n".repeat(length + 1), vec![7; length]);
            cpio.file(&name, 0o644, &data).unwrap();
            expected.push(entry(&name, 0o100_644, &data));
        }
        assert_eq!(read(&cpio.finish().unwrap()), expected);
    }

    #[test]
    fn folders_above_an_entry_come_first_and_once() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("/a/b/one", 0o755, b"1").unwrap();
        cpio.symlink("a/b/two", "one").unwrap();
        cpio.folder("a/b").unwrap();
        let expected = [
            entry("a", 0o040_755, b""),
            entry("a/b", 0o040_755, b""),
            entry("a/b/one", 0o100_755, b"1"),
            entry("a/b/two", 0o120_777, b"one"),
        ];
        assert_eq!(read(&cpio.finish().unwrap()), expected);
    }

    #[test]
    fn a_path_cannot_be_written_twice() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("init", 0o755, b"").unwrap();
        let error = cpio.file("/init", 0o755, b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
