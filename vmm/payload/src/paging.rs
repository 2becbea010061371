//! Translations above 4 GiB, added when something there is first needed.
//! What lies below is in the image (`boot.s`).
//!
//! Pages of 1 GiB where CPUID offers them, else of 2 MiB. Tables come from
//! RAM below 4 GiB ([`supply`]); they are complete before they are linked.
//! Only the first processor maps.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::gate;

/// Present, writable, user, accessed; a leaf is also dirty and has the size bit.
const TABLE: u64 = 0x27;
const LEAF: u64 = 0xe7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const GIB: u64 = 1 << 30;
/// Where the static tables end.
const STATIC_END: u64 = 4 * GIB;
/// Four-level paging with identity mapping reaches no higher (user half).
pub const LIMIT: u64 = 1 << 47;

unsafe extern "C" {
    static pml4: AtomicU64;
}

static POOL: AtomicU64 = AtomicU64::new(0);
static POOL_END: AtomicU64 = AtomicU64::new(0);
static GIB_PAGES: AtomicBool = AtomicBool::new(false);

/// Table pages needed to map everything below `top`, and some for devices.
pub fn tables_for(top: u64) -> u64 {
    const DEVICES: u64 = 16;
    GIB_PAGES.store(gib_pages_offered(), Relaxed);
    let gibs = top.saturating_sub(STATIC_END).div_ceil(GIB);
    let leaves = if GIB_PAGES.load(Relaxed) { 0 } else { gibs };
    DEVICES + leaves + top.div_ceil(512 * GIB)
}

/// Gives away `pages` pages of RAM from `start` for tables.
pub fn supply(start: u64, pages: u64) {
    POOL.store(start, Relaxed);
    POOL_END.store(start + pages * 4096, Relaxed);
}

/// Makes `start..start + len` accessible; false when that cannot be.
pub fn map(start: u64, len: u64) -> bool {
    let Some(end) = start.checked_add(len).filter(|end| *end <= LIMIT) else {
        return false;
    };
    let mut at = start / GIB * GIB;
    let mut changed = false;
    while at < end {
        if at >= STATIC_END {
            match map_gib(at) {
                Some(new) => changed |= new,
                None => return false,
            }
        }
        at += GIB;
    }
    if changed {
        gate::reload_cr3();
    }
    true
}

/// As [`map`], for what is there without our doing; below 4 GiB this is free.
pub fn map_existing(start: u64, len: u64) {
    if start.saturating_add(len) > STATIC_END {
        map(start, len);
    }
}

fn gib_pages_offered() -> bool {
    gate::cpuid(0x8000_0000, 0)[0] >= 0x8000_0001 && gate::cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0
}

/// Maps the GiB at `at`; true when it was not mapped.
fn map_gib(at: u64) -> Option<bool> {
    let root = &raw const pml4 as u64;
    let pdpt = match load(root, at >> 39) {
        0 => {
            let table = zeroed_table()?;
            store(root, at >> 39, table | TABLE);
            table
        }
        entry => entry & ADDRESS,
    };
    let slot = (at >> 30) & 511;
    if load(pdpt, slot) != 0 {
        return Some(false);
    }
    if GIB_PAGES.load(Relaxed) {
        store(pdpt, slot, at | LEAF);
    } else {
        let table = zeroed_table()?;
        for page in 0..512 {
            store(table, page, (at + (page << 21)) | LEAF);
        }
        store(pdpt, slot, table | TABLE);
    }
    Some(true)
}

fn zeroed_table() -> Option<u64> {
    let table = POOL.load(Relaxed);
    if table >= POOL_END.load(Relaxed) {
        return None;
    }
    POOL.store(table + 4096, Relaxed);
    // SAFETY: a page of the pool, handed out once.
    unsafe { (table as *mut u8).write_bytes(0, 4096) };
    Some(table)
}

fn entry(table: u64, index: u64) -> &'static AtomicU64 {
    // SAFETY: `table` is one of ours, below 4 GiB and never freed.
    unsafe { AtomicU64::from_ptr((table + (index & 511) * 8) as *mut u64) }
}

fn load(table: u64, index: u64) -> u64 {
    entry(table, index).load(Relaxed)
}

fn store(table: u64, index: u64, value: u64) {
    entry(table, index).store(value, Relaxed);
}
