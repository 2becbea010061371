use super::*;
use std::sync::mpsc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

const SIZE: u64 = 16 << 20;
const PAGES: u64 = SIZE / PAGE_SIZE;

fn filled(huge_pages: HugePages) -> Arc<GuestRam> {
    let ram = Arc::new(GuestRam::allocate(SIZE, huge_pages).expect("memory"));
    for page in 0..PAGES {
        ram.memory()
            .write_obj(!page, GuestAddress(page * PAGE_SIZE))
            .expect("in memory");
    }
    ram
}

fn start_over(
    ram: &Arc<GuestRam>,
    missing: Vec<(u64, u64)>,
) -> Option<(PostCopy, mpsc::Receiver<u64>)> {
    let (sender, faults) = mpsc::channel();
    let tell = move |arrival| match arrival {
        Arrival::Fault(page) => sender.send(page).expect("the test listens"),
        Arrival::Failed(error) => panic!("{error}"),
    };
    PostCopy::give_up(ram, missing.clone()).expect("gives up");
    match PostCopy::start(ram, missing, tell) {
        Ok(post_copy) => Some((post_copy, faults)),
        Err(PostCopyError::Missing(error)) => {
            crate::skip::skipped!("no userfaultfd here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn start(missing: Vec<(u64, u64)>) -> Option<(Arc<GuestRam>, PostCopy, mpsc::Receiver<u64>)> {
    let ram = filled(HugePages::None);
    let (post_copy, faults) = start_over(&ram, missing)?;
    Some((ram, post_copy, faults))
}

fn word(ram: &GuestRam, page: u64) -> u64 {
    ram.memory()
        .read_obj(GuestAddress(page * PAGE_SIZE))
        .expect("in memory")
}

/// Installs pages full of `byte`, or zeros; returns the runs that arrived.
fn install(post_copy: &PostCopy, first: u64, pages: u64, byte: u8) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let arrived = |first, pages| runs.push((first, pages));
    let bytes = vec![byte; (pages * PAGE_SIZE) as usize];
    match byte {
        0 => post_copy.install_zeros(first, pages, arrived),
        _ => post_copy.install(first, &bytes, arrived),
    }
    .expect("installs");
    runs
}

#[test]
fn who_touches_an_absent_page_waits_for_it() {
    let Some((ram, post_copy, faults)) = start(vec![(100, 50)]) else {
        return;
    };
    assert_eq!(word(&ram, 99), !99);
    assert_eq!(word(&ram, 150), !150);
    thread::scope(|scope| {
        let reader = scope.spawn(|| word(&ram, 120));
        assert_eq!(faults.recv_timeout(Duration::from_secs(60)), Ok(120));
        thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_finished());
        assert_eq!(install(&post_copy, 118, 4, 7), [(118, 4)]);
        assert_eq!(reader.join().expect("reads"), u64::from_le_bytes([7; 8]));
    });
    assert_eq!(word(&ram, 121), u64::from_le_bytes([7; 8]));
    assert_eq!(
        install(&post_copy, 100, 50, 0),
        [(100, 18), (122, 28)],
        "once"
    );
    assert_eq!(word(&ram, 100), 0);
    assert_eq!(word(&ram, 118), u64::from_le_bytes([7; 8]));
    post_copy.finish();
}

#[test]
fn who_waits_for_a_page_of_zeros_goes_on_and_untouched_zeros_take_no_memory() {
    let Some((ram, post_copy, faults)) = start(vec![(0, PAGES)]) else {
        return;
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| word(&ram, 1000));
        assert_eq!(faults.recv_timeout(Duration::from_secs(60)), Ok(1000));
        install(&post_copy, 0, PAGES, 0);
        assert_eq!(reader.join().expect("reads"), 0);
    });
    assert!(ram.resident_bytes() <= 2 * PAGE_SIZE);
    assert_eq!(word(&ram, 77), 0, "and are there when touched");
    post_copy.finish();
    assert_eq!(word(&ram, 78), 0);
}

#[test]
fn memory_that_never_had_content_is_zero_and_nobody_is_asked_for_it() {
    let ram = Arc::new(GuestRam::allocate(SIZE, HugePages::None).expect("memory"));
    let Some((post_copy, faults)) = start_over(&ram, vec![(0, 8)]) else {
        return;
    };
    assert_eq!(word(&ram, 9), 0);
    assert!(faults.try_recv().is_err());
    install(&post_copy, 0, 8, 1);
    post_copy.finish();
}

#[test]
fn a_page_that_was_written_meanwhile_is_not_overwritten() {
    let Some((ram, post_copy, _)) = start(vec![(0, PAGES)]) else {
        return;
    };
    install(&post_copy, 8, 1, 1);
    install(&post_copy, 9, 1, 0);
    for page in [8u64, 9] {
        ram.memory()
            .write_obj(5u64, GuestAddress(page * PAGE_SIZE))
            .expect("in memory");
    }
    assert_eq!(install(&post_copy, 0, 64, 2), [(0, 8), (10, 54)]);
    assert_eq!((word(&ram, 8), word(&ram, 9)), (5, 5));
    for page in (0..64).filter(|page| !(8..10).contains(page)) {
        assert_eq!(word(&ram, page), u64::from_le_bytes([2; 8]), "page {page}");
    }
    install(&post_copy, 64, PAGES - 64, 0);
    post_copy.finish();
}

#[test]
fn a_page_out_of_the_middle_of_a_huge_one_is_absent_and_its_neighbours_stay() {
    let ram = filled(HugePages::Transparent);
    let Some((post_copy, faults)) = start_over(&ram, vec![(700, 3)]) else {
        return;
    };
    assert_eq!((word(&ram, 699), word(&ram, 703)), (!699, !703));
    thread::scope(|scope| {
        let reader = scope.spawn(|| word(&ram, 701));
        assert_eq!(faults.recv_timeout(Duration::from_secs(60)), Ok(701));
        install(&post_copy, 700, 3, 9);
        assert_eq!(reader.join().expect("reads"), u64::from_le_bytes([9; 8]));
    });
    post_copy.finish();
}

#[test]
fn pages_outside_memory_are_refused() {
    let Some((_ram, post_copy, _)) = start(vec![(0, 8)]) else {
        return;
    };
    let page = [0; PAGE_SIZE as usize];
    for first in [PAGES, u64::MAX, u64::MAX / PAGE_SIZE] {
        assert!(matches!(
            post_copy.install(first, &page, |_, _| {}),
            Err(PostCopyError::Outside { .. })
        ));
        assert!(post_copy.install_zeros(first, 2, |_, _| {}).is_err());
    }
    install(&post_copy, 0, 8, 0);
}

#[test]
fn explicit_huge_pages_are_gathered_and_installed_whole() {
    let ram = match GuestRam::allocate(SIZE, HugePages::Huge2M) {
        Ok(ram) => Arc::new(ram),
        Err(error) => return crate::skip::skipped!("{error}"),
    };
    assert!(matches!(
        PostCopy::give_up(&ram, [(0, 8)]),
        Err(PostCopyError::Unaligned { .. })
    ));
    assert!(matches!(
        PostCopy::start(&ram, [(0, 8)], |_| {}),
        Err(PostCopyError::Unaligned { .. })
    ));
    let Some((post_copy, faults)) = start_over(&ram, vec![(512, 1024)]) else {
        return;
    };
    assert_eq!(word(&ram, 0), 0, "never had content");
    thread::scope(|scope| {
        let reader = scope.spawn(|| word(&ram, 700));
        let heard = faults
            .recv_timeout(Duration::from_secs(60))
            .expect("a fault");
        assert_eq!(heard / 512, 1);
        assert_eq!(install(&post_copy, 512, 200, 3), []);
        assert_eq!(install(&post_copy, 712, 312, 4), [(512, 512)]);
        assert_eq!(reader.join().expect("reads"), u64::from_le_bytes([3; 8]));
    });
    assert_eq!(install(&post_copy, 1024, 512, 0), [(1024, 512)]);
    assert_eq!(
        (word(&ram, 720), word(&ram, 1100)),
        (u64::from_le_bytes([4; 8]), 0)
    );
    post_copy.finish();
}
