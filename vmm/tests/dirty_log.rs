//! The dirty log misses nothing: a copy kept up by it equals the guest's memory.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use godwit_proto::guest::{DiskSpec, GuestSpec, HugePages};
use godwit_vmm::guest::DirtyTracking;
use godwit_vmm::kvm::Hypervisor;
use godwit_vmm::memory::{DirtyPages, GuestRam};
use support::{Running, has_kvm, skipped, spec};

const PAGE: u64 = 4096;

fn copy_pages(ram: &GuestRam, pages: &DirtyPages, copy: &File) {
    let mut buffer = vec![0; PAGE as usize];
    pages.for_each_run(|first, count| {
        for page in first..first + count {
            ram.file().read_exact_at(&mut buffer, page * PAGE).unwrap();
            copy.write_all_at(&buffer, page * PAGE).unwrap();
        }
    });
}

/// Keeps a copy of the guest's memory by the log alone, and compares at the end.
fn assert_the_log_is_complete(spec: &GuestSpec, tracking: DirtyTracking) {
    let mut guest = Running::build_with(spec, tracking);
    guest.guest.resume().unwrap();
    guest.line("check id=0 cpu=");
    let ram = guest.guest.ram().clone();
    let log = guest.guest.dirty_log().clone();
    let copy = tempfile::tempfile().unwrap();
    copy.set_len(ram.bytes()).unwrap();

    log.start().unwrap();
    let mut dirty = DirtyPages::empty(&ram);
    log.collect(&mut dirty).unwrap();
    log.arm(&dirty).unwrap();
    let mut all = vec![0; 1 << 20];
    for offset in (0..ram.bytes()).step_by(1 << 20) {
        ram.file().read_exact_at(&mut all, offset).unwrap();
        copy.write_all_at(&all, offset).unwrap();
    }
    let mut seen = 0;
    for _ in 0..5 {
        sleep(Duration::from_millis(60));
        dirty.clear();
        log.collect(&mut dirty).unwrap();
        seen += dirty.count();
        log.arm(&dirty).unwrap();
        copy_pages(&ram, &dirty, &copy);
    }
    guest.guest.pause().unwrap();
    dirty.clear();
    log.collect(&mut dirty).unwrap();
    copy_pages(&ram, &dirty, &copy);
    log.stop().unwrap();

    assert!(seen > 0, "a busy guest dirties pages");
    let (mut ours, mut theirs) = (vec![0; PAGE as usize], vec![0; PAGE as usize]);
    for offset in (0..ram.bytes()).step_by(PAGE as usize) {
        ram.file().read_exact_at(&mut ours, offset).unwrap();
        copy.read_exact_at(&mut theirs, offset).unwrap();
        assert!(
            ours == theirs,
            "the page at {offset:#x} was written and not logged"
        );
    }
    guest.guest.resume().unwrap();
    guest.drain();
    assert_eq!(guest.report("check id=", "wrong"), 0);
}

fn busy() -> GuestSpec {
    spec("every=20 check=12M,rate:30000 dirty=8M,rate:20000,pattern:random")
}

#[test]
fn the_bitmap_is_complete() {
    if !has_kvm() {
        return;
    }
    for vcpus in [1, 2] {
        let spec = GuestSpec { vcpus, ..busy() };
        assert_the_log_is_complete(&spec, DirtyTracking::Bitmap);
    }
}

#[test]
fn the_ring_is_complete_also_when_it_overflows() {
    if !has_kvm() {
        return;
    }
    if Hypervisor::open().unwrap().dirty_log().ring_max_entries == 0 {
        skipped!("this KVM has no dirty ring");
        return;
    }
    for vcpus in [1, 2] {
        let spec = GuestSpec { vcpus, ..busy() };
        assert_the_log_is_complete(&spec, DirtyTracking::Ring);
    }
    // More pages between two collections than a ring has entries.
    let mut large = spec("every=20 check=300M,rate:0,verify:1");
    large.memory.size_bytes = 384 << 20;
    assert_the_log_is_complete(&large, DirtyTracking::Ring);
}

#[test]
fn transparent_huge_pages_change_nothing() {
    if !has_kvm() {
        return;
    }
    let mut spec = busy();
    spec.memory.huge_pages = HugePages::Transparent;
    assert_the_log_is_complete(&spec, DirtyTracking::Auto);
}

#[test]
fn what_devices_write_is_in_the_log() {
    if !has_kvm() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(16 << 20).unwrap();
    for tracking in [DirtyTracking::Bitmap, DirtyTracking::Ring] {
        if tracking == DirtyTracking::Ring
            && Hypervisor::open().unwrap().dirty_log().ring_max_entries == 0
        {
            continue;
        }
        let mut spec = spec("every=20 check=4M,rate:1000 blk=size:2M");
        spec.vcpus = 2;
        spec.disks = vec![DiskSpec {
            id: "d".into(),
            path: disk.path().to_str().unwrap().into(),
            read_only: false,
            discard: false,
            direct: false,
        }];
        assert_the_log_is_complete(&spec, tracking);
    }
}

#[test]
fn a_reset_leaves_no_page_out_of_the_log() {
    if !has_kvm() {
        return;
    }
    let guest = Running::start(&spec("heartbeat=20"));
    let (ram, log) = (guest.guest.ram(), guest.guest.dirty_log());
    log.start().unwrap();
    let mut dirty = DirtyPages::empty(ram);
    log.collect(&mut dirty).unwrap();
    log.arm(&dirty).unwrap();
    guest.guest.reset().unwrap();
    dirty.clear();
    log.collect(&mut dirty).unwrap();
    assert_eq!(dirty.count(), ram.bytes() / PAGE);
}
