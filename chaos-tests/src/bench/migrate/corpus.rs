//! What the memory of a guest that moves is filled with.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::guests::Content;
use super::super::{Bench, BenchError, image};

const PAGE: usize = 4096;
/// Deeper than any folder of a package.
const MAX_DEPTH: usize = 16;
/// More files than the packages have.
const MAX_FILES: usize = 20_000;

/// A kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Programs, libraries, firmware and documents: the files of QEMU's Debian packages. They stand for the
    /// Silesia corpus; `zstd -1` makes 0.32 of all of them, and 0.35 of Silesia.
    Files,
    /// Rows of a table in pages of 8 KiB, three quarters full.
    Database,
    /// Nothing that compresses.
    Random,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Files => "files of Debian packages",
            Self::Database => "database pages",
            Self::Random => "random bytes",
        }
    }

    /// `mib` MiB of it in a file of this run; made once.
    pub(super) fn content(self, bench: &Bench, mib: u64) -> Result<Content, BenchError> {
        let name = format!("content-{self:?}-{mib}");
        let length = (mib << 20) as usize;
        let path = bench.file(&name);
        let file = match path.exists() {
            true => path,
            false => image::write(bench, &name, &self.bytes(bench, length)?)?,
        };
        let bytes = length as u64;
        Ok(Content { file, bytes })
    }

    fn bytes(self, bench: &Bench, length: usize) -> Result<Vec<u8>, BenchError> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        Ok(match self {
            Self::Files => files(bench, length)?,
            Self::Database => database(length, &mut random),
            Self::Random => {
                let words = std::iter::repeat_with(|| random.next().to_le_bytes());
                words.take(length / 8).flatten().collect()
            }
        })
    }
}

/// Bytes of the pages of `content` that are not all zero.
pub(super) fn non_zero_bytes(content: &Content) -> Result<f64, BenchError> {
    let bytes = fs::read(&content.file).map_err(failed(&content.file))?;
    let pages = bytes
        .chunks(PAGE)
        .filter(|page| page.iter().any(|&byte| byte != 0));
    Ok((pages.count() * PAGE) as f64)
}

/// The fetched packages' files one after another, again from the first when they do not reach.
fn files(bench: &Bench, length: usize) -> Result<Vec<u8>, BenchError> {
    let assets = bench.peer.as_ref().and_then(|peer| peer.assets());
    let program = assets.map(crate::nested::Assets::qemu_program);
    // The program lies in usr/bin of the folder that everything was unpacked into.
    let root = program
        .as_deref()
        .and_then(|program| program.ancestors().nth(3));
    let root = root.ok_or(BenchError::Peer("its packages were not fetched".to_owned()))?;
    let mut paths = Vec::new();
    walk(root, 0, &mut paths)?;
    paths.sort();
    let mut bytes = Vec::with_capacity(length + PAGE);
    for path in paths.iter().cycle().take(MAX_FILES) {
        if bytes.len() >= length {
            break;
        }
        bytes.extend(fs::read(path).map_err(failed(path))?);
        // In memory a file begins on a page.
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    }
    bytes.resize(length, 0);
    Ok(bytes)
}

fn walk(folder: &Path, depth: usize, into: &mut Vec<PathBuf>) -> Result<(), BenchError> {
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let kind = entry.file_type().map_err(failed(folder))?;
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), depth + 1, into)?;
        } else if kind.is_file() && into.len() < MAX_FILES {
            into.push(entry.path());
        }
    }
    Ok(())
}

/// Heap pages: a header, an array of offsets that grows up, rows that grow down.
fn database(length: usize, random: &mut Random) -> Vec<u8> {
    const PAGE_BYTES: usize = 8192;
    const HEADER_BYTES: usize = 24;
    const FILL: usize = PAGE_BYTES * 3 / 4;
    const WORDS: [&str; 16] = [
        "alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "iron", "juniper",
        "kapok", "larch", "maple", "nutmeg", "oak", "pine",
    ];
    let mut bytes = Vec::with_capacity(length);
    let mut key = 1_000_000u64;
    while bytes.len() < length {
        let mut page = vec![0u8; PAGE_BYTES];
        page[..8].copy_from_slice(&(key * 211).to_le_bytes());
        let (mut slot, mut row_at) = (HEADER_BYTES, PAGE_BYTES);
        while PAGE_BYTES - row_at + slot < FILL {
            key += 1;
            let word = |random: &mut Random| WORDS[(random.next() >> 60) as usize];
            let mut row = key.to_le_bytes().to_vec();
            row.extend((1_700_000_000 + key * 3 + (random.next() >> 60)).to_le_bytes());
            row.extend(((random.next() >> 48) as u32).to_le_bytes());
            let text = format!(
                "{} {} street {:>4}  {:<10}OPEN      ",
                word(random),
                word(random),
                random.next() >> 54,
                word(random)
            );
            row.extend(text.as_bytes());
            row.extend([0; 28]);
            row_at -= row.len();
            page[row_at..row_at + row.len()].copy_from_slice(&row);
            page[slot..slot + 2].copy_from_slice(&(row_at as u16).to_le_bytes());
            slot += 2;
        }
        bytes.extend(page);
    }
    bytes.truncate(length);
    bytes
}

/// xorshift64*: the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> BenchError {
    let path = path.display().to_string();
    move |source| BenchError::System {
        doing: format!("read {path}"),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_pages_are_three_quarters_full() {
        let bytes = database(1 << 20, &mut Random(1));
        for page in bytes.chunks(8192) {
            let free = &page[200..2000];
            assert!(free.iter().all(|&byte| byte == 0));
            let rows = &page[2400..];
            assert!(
                rows.chunks(128)
                    .all(|row| row.iter().any(|&byte| byte != 0))
            );
        }
    }
}
