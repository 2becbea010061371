//! What one `fdatasync` takes here.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::system;
use crate::bench::{BenchError, Samples};

/// Bytes that are appended each time: about an entry of the log.
const BYTES: [u8; 512] = [0x5a; 512];

/// Microseconds of appending to a file and syncing it, `count` times.
pub(super) fn sync(folder: &Path, count: usize) -> Result<Samples, BenchError> {
    let path = folder.join("fdatasync");
    let mut file = File::create(&path).map_err(system("make a file"))?;
    let mut times = Samples::new();
    for _ in 0..count {
        let begin = Instant::now();
        file.write_all(&BYTES).map_err(system("write a file"))?;
        file.sync_data().map_err(system("sync a file"))?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path).map_err(system("remove a file"))?;
    Ok(times)
}
