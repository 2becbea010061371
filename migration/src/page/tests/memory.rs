//! A guest's memory that remembers what was touched.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ports::{GuestMemory, PAGE_BYTES, PortError};

/// Memory of a few pages.
pub(in crate::page) struct FakeMemory {
    pages: RwLock<Vec<Option<Box<[u8; PAGE_BYTES]>>>>,
    reads: AtomicU64,
}

impl FakeMemory {
    pub(in crate::page) fn new(pages: u64) -> Self {
        Self {
            pages: RwLock::new(vec![None; pages as usize]),
            reads: AtomicU64::new(0),
        }
    }

    pub(in crate::page) fn filled(bytes: &[u8]) -> Self {
        let memory = Self::new((bytes.len() / PAGE_BYTES) as u64);
        memory.write(0, bytes).unwrap();
        memory
    }

    /// How often pages were read.
    pub(in crate::page) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(in crate::page) fn touched(&self) -> u64 {
        self.pages.read().unwrap().iter().flatten().count() as u64
    }

    pub(in crate::page) fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.pages() as usize * PAGE_BYTES];
        self.read(0, &mut bytes).unwrap();
        bytes
    }
}

impl GuestMemory for FakeMemory {
    fn pages(&self) -> u64 {
        self.pages.read().unwrap().len() as u64
    }

    fn read(&self, first: u64, bytes: &mut [u8]) -> Result<(), PortError> {
        let pages = self.pages.read().unwrap();
        let count = bytes.len() / PAGE_BYTES;
        let found = pages
            .get(first as usize..first as usize + count)
            .ok_or("outside")?;
        self.reads.fetch_add(count as u64, Ordering::Relaxed);
        for (page, bytes) in found.iter().zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            match page {
                Some(page) => bytes.copy_from_slice(&page[..]),
                None => bytes.fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, first: u64, bytes: &[u8]) -> Result<(), PortError> {
        let mut pages = self.pages.write().unwrap();
        let count = bytes.len() / PAGE_BYTES;
        let found = pages
            .get_mut(first as usize..first as usize + count)
            .ok_or("outside")?;
        for (page, bytes) in found.iter_mut().zip(bytes.chunks_exact(PAGE_BYTES)) {
            page.get_or_insert_with(|| Box::new([0; PAGE_BYTES]))
                .copy_from_slice(bytes);
        }
        Ok(())
    }

    fn write_zeros(&self, first: u64, count: u64) -> Result<(), PortError> {
        let mut pages = self.pages.write().unwrap();
        let end = first.checked_add(count).ok_or("outside")?;
        let found = pages
            .get_mut(first as usize..end as usize)
            .ok_or("outside")?;
        found.iter_mut().flatten().for_each(|page| page.fill(0));
        Ok(())
    }

    fn is_untouched(&self, first: u64, count: u64) -> bool {
        let pages = self.pages.read().unwrap();
        let found = pages.get(first as usize..(first + count) as usize);
        found.is_some_and(|found| found.iter().all(Option::is_none))
    }
}
