//! The kernels that are measured with.

use std::fs;
use std::path::PathBuf;

use super::{Bench, BenchError};

const ENTRY: u64 = 0x20_0000;
const HEADER_BYTES: u64 = 64;
const SEGMENT_BYTES: u64 = 56;
const SEGMENTS: u16 = 2;
const NOTE_AT: u64 = HEADER_BYTES + SEGMENTS as u64 * SEGMENT_BYTES;
/// Xen's note type for a 32-bit PVH entry.
const PHYS32_ENTRY: u32 = 18;
const NOTE_BYTES: u64 = 24;
const CODE_AT: u64 = 0x1000;
/// 32-bit code: writes one byte to the first serial port and halts.
const CODE: [u8; 10] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'!', // mov al, '!'
    0xee, // out dx, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp hlt
];

/// The built-in guest as a file, for both VMMs.
pub(super) fn payload(bench: &Bench) -> Result<PathBuf, BenchError> {
    write(bench, "payload.elf", godwit_vmm::payload::ELF)
}

/// A kernel whose third instruction is seen from outside.
pub(super) fn spark(bench: &Bench) -> Result<PathBuf, BenchError> {
    write(bench, "spark.elf", &spark_elf())
}

/// A file in the folder of this run.
pub(super) fn write(bench: &Bench, name: &str, bytes: &[u8]) -> Result<PathBuf, BenchError> {
    let path = bench.file(name);
    fs::write(&path, bytes).map_err(|source| BenchError::System {
        doing: format!("write {}", path.display()),
        source,
    })?;
    Ok(path)
}

/// ELF64, one loaded segment and one note (System V ABI, chapters 4 and 5; Xen `elfnote.h`).
fn spark_elf() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2u16, 62] {
        elf.extend(half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    elf.extend(1u32.to_le_bytes());
    for word in [ENTRY, HEADER_BYTES, 0] {
        elf.extend(word.to_le_bytes()); // entry, segments, no sections
    }
    elf.extend(0u32.to_le_bytes());
    for half in [
        HEADER_BYTES as u16,
        SEGMENT_BYTES as u16,
        SEGMENTS,
        64,
        0,
        0,
    ] {
        elf.extend(half.to_le_bytes());
    }
    let code_bytes = CODE.len() as u64;
    segment(&mut elf, 1, 5, [CODE_AT, ENTRY, code_bytes, 0x1000]);
    segment(&mut elf, 4, 4, [NOTE_AT, 0, NOTE_BYTES, 4]);
    for half in [4u32, 8, PHYS32_ENTRY] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf.resize(CODE_AT as usize, 0);
    elf.extend(CODE);
    elf
}

fn segment(elf: &mut Vec<u8>, kind: u32, flags: u32, [at, address, bytes, align]: [u64; 4]) {
    elf.extend(kind.to_le_bytes());
    elf.extend(flags.to_le_bytes());
    for word in [at, address, address, bytes, bytes, align] {
        elf.extend(word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spark_has_its_parts_where_its_headers_say() {
        let elf = spark_elf();
        assert_eq!(&elf[CODE_AT as usize..], CODE);
        let note = &elf[NOTE_AT as usize..(NOTE_AT + NOTE_BYTES) as usize];
        assert_eq!(&note[12..16], b"Xen\0");
        assert_eq!(&note[16..], ENTRY.to_le_bytes());
        assert_eq!(&elf[64..68], 1u32.to_le_bytes());
        assert_eq!(&elf[120..124], 4u32.to_le_bytes());
    }
}
