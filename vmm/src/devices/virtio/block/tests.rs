//! The disk driven through a ring, against a model, and against drivers that break the rules.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_blk::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::{Activation, ActiveQueue, VirtioDevice};
use crate::memory::GuestMemory;

const RING: u64 = 0x10_0000;
const HEADER: u64 = 0x20_0000;
const STATUS: u64 = 0x20_1000;
const DATA: u64 = 0x40_0000;
/// The two regions of memory meet here; data lies across.
const SEAM: u64 = 0x80_0000;
const SECTORS: u64 = 2048;

/// How a disk is run.
#[derive(Clone, Copy, Debug)]
struct Mode {
    ring: bool,
    cache: CacheMode,
    features: u64,
}

fn bit(feature: u32) -> u64 {
    1 << feature
}

const MODE: Mode = Mode {
    ring: true,
    cache: CacheMode::Host,
    features: 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
};

fn modes() -> Vec<Mode> {
    let mut all = Vec::new();
    for ring in [true, false] {
        for cache in [CacheMode::Host, CacheMode::Direct] {
            for flush in [0, bit(VIRTIO_BLK_F_FLUSH)] {
                let features = MODE.features & !bit(VIRTIO_BLK_F_FLUSH) | flush;
                all.push(Mode {
                    ring,
                    cache,
                    features,
                });
            }
        }
    }
    all
}

struct Rig {
    memory: GuestMemory,
    ring: TestRing,
    interrupt: Arc<Recorder>,
    device: Block,
    path: PathBuf,
    mode: Mode,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(mode: Mode) -> Self {
        Self::with(mode, |_| ())
    }

    fn with(mode: Mode, change: impl Fn(&mut BlockConfig)) -> Self {
        // Not in a tmpfs, which may lack direct I/O.
        let dir =
            tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../target").unwrap();
        let path = dir.path().join("disk.raw");
        File::create(&path).unwrap().set_len(SECTORS * 512).unwrap();
        let mut config = BlockConfig {
            id: "vda".into(),
            path: path.clone(),
            read_only: false,
            discard: true,
            cache: mode.cache,
        };
        change(&mut config);
        let memory = GuestMemory::from_ranges(&[
            (GuestAddress(0), SEAM as usize),
            (GuestAddress(SEAM), SEAM as usize),
        ])
        .unwrap();
        let mut device = Block::open(&config).unwrap();
        if !mode.ring {
            device.use_system_calls();
        }
        let mut rig = Self {
            ring: TestRing::new(&memory, RING, 256),
            memory,
            interrupt: Arc::default(),
            device,
            path,
            mode,
            _dir: dir,
        };
        let queue = rig.ring.active(0, false);
        rig.activate(vec![queue]);
        rig
    }

    fn activate(&mut self, queues: Vec<ActiveQueue>) {
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.mode.features,
            queues,
            interrupt: self.interrupt.clone(),
        };
        self.device.activate(activation).unwrap();
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory.write_slice(&header, GuestAddress(at)).unwrap();
    }

    /// Sends one request with the given data buffers and waits for its status and used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Desc]) -> (u32, u32) {
        self.header(HEADER, kind, sector);
        self.memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        let mut chain = vec![readable(HEADER, 16)];
        chain.extend_from_slice(data);
        chain.push(writable(STATUS, 1));
        let head = self.ring.post(&chain);
        self.ring.kick();
        let (used, len) = self.ring.wait_used();
        assert_eq!(used, head);
        let status: u8 = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        (status.into(), len)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u32 {
        self.memory.write_slice(bytes, GuestAddress(DATA)).unwrap();
        let data = [readable(DATA, bytes.len() as u32)];
        self.request(VIRTIO_BLK_T_OUT, sector, &data).0
    }

    fn read(&mut self, sector: u64, bytes: usize) -> (u32, Vec<u8>) {
        let data = [writable(DATA, bytes as u32)];
        let (status, _) = self.request(VIRTIO_BLK_T_IN, sector, &data);
        let mut seen = vec![0; bytes];
        self.memory
            .read_slice(&mut seen, GuestAddress(DATA))
            .unwrap();
        (status, seen)
    }

    /// Sends one raw chain and waits until the device says that the driver broke the rules.
    fn expect_reset(&mut self) -> String {
        self.ring.kick();
        let interrupt = self.interrupt.clone();
        eventually("the device needs a reset", || {
            interrupt.reset_cause().is_some()
        });
        assert_eq!(self.device.quiesce().len(), 1, "the queue must come back");
        self.interrupt.reset_cause().unwrap()
    }
}

fn ranges(rig: &Rig, list: &[(u64, u32, u32)]) -> Desc {
    let mut bytes = Vec::new();
    for (sector, sectors, flags) in list {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    rig.memory.write_slice(&bytes, GuestAddress(DATA)).unwrap();
    readable(DATA, bytes.len() as u32)
}

#[test]
fn data_survives_a_write_a_flush_and_a_read_in_every_mode() {
    for mode in modes() {
        let mut rig = Rig::new(mode);
        let data: Vec<u8> = (0..8192u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(rig.write(5, &data), VIRTIO_BLK_S_OK, "{mode:?}");
        assert_eq!(
            rig.request(VIRTIO_BLK_T_FLUSH, 0, &[]),
            (VIRTIO_BLK_S_OK, 1)
        );
        assert_eq!(
            &std::fs::read(&rig.path).unwrap()[5 * 512..][..8192],
            data,
            "{mode:?}"
        );
        rig.memory
            .write_slice(&[0; 8192], GuestAddress(DATA))
            .unwrap();
        assert_eq!(rig.read(5, 8192), (VIRTIO_BLK_S_OK, data), "{mode:?}");
        let counters = rig.device.counters();
        assert_eq!((counters.reads(), counters.read_bytes()), (1, 8192));
        assert_eq!((counters.writes(), counters.write_bytes()), (1, 8192));
        assert_eq!((counters.flushes(), counters.io_errors()), (1, 0));
    }
}

#[test]
fn a_read_reports_its_length_and_marks_the_pages_it_filled() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let mut rig = Rig::new(MODE);
    // Across the seam of the two regions.
    let data = [writable(SEAM - 512, 1024), writable(DATA + 0x5000, 512)];
    let answer = rig.request(VIRTIO_BLK_T_IN, 0, &data);
    assert_eq!(answer, (VIRTIO_BLK_S_OK, 1537));
    let dirty = |address: u64| {
        let region = rig.memory.find_region(GuestAddress(address)).unwrap();
        region
            .bitmap()
            .dirty_at((address - region.start_addr().0) as usize)
    };
    for (address, expected) in [
        (SEAM - 1, true),
        (SEAM, true),
        (DATA + 0x5000, true),
        (DATA + 0x6000, false),
        (SEAM + 0x1000, false),
        (SEAM - 0x1001, false),
    ] {
        assert_eq!(dirty(address), expected, "{address:#x}");
    }
}

#[test]
fn a_disk_in_memory_works_though_its_filesystem_may_lack_what_others_have() {
    let dir = match tempfile::tempdir_in("/dev/shm") {
        Ok(dir) => dir,
        Err(error) => return crate::skip::skipped!("no tmpfs at /dev/shm: {error}"),
    };
    for ring in [true, false] {
        let mode = Mode { ring, ..MODE };
        let path = dir.path().join(format!("{ring}.raw"));
        File::create(&path).unwrap().set_len(SECTORS * 512).unwrap();
        let mut rig = Rig::with(mode, |config| config.path = path.clone());
        let data = vec![0x5a; 1 << 20];
        assert_eq!(rig.write(0, &data), VIRTIO_BLK_S_OK);
        assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, VIRTIO_BLK_S_OK);
        for unmap in [0, 1] {
            let list = ranges(&rig, &[(8 + u64::from(unmap) * 8, 8, unmap)]);
            let answer = rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[list]);
            assert_eq!(answer.0, VIRTIO_BLK_S_OK);
        }
        let (status, seen) = rig.read(0, 1 << 20);
        assert_eq!(status, VIRTIO_BLK_S_OK);
        assert!(seen[4096..12288].iter().all(|b| *b == 0));
        assert!(seen[12288..].iter().all(|b| *b == 0x5a) && seen[4095] == 0x5a);
    }
}

#[test]
fn space_is_given_back_only_where_the_configuration_allows_it() {
    use std::os::unix::fs::MetadataExt;
    for discard in [true, false] {
        let mut rig = Rig::with(MODE, |config| config.discard = discard);
        assert_eq!(
            rig.device.features() & bit(VIRTIO_BLK_F_DISCARD) != 0,
            discard
        );
        std::fs::write(&rig.path, vec![7; (SECTORS * 512) as usize]).unwrap();
        File::open(&rig.path).unwrap().sync_all().unwrap();
        let blocks = |rig: &Rig| std::fs::metadata(&rig.path).unwrap().blocks();
        let before = blocks(&rig);
        let list = ranges(&rig, &[(0, 1024, 1)]);
        assert_eq!(
            rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[list]).0,
            VIRTIO_BLK_S_OK
        );
        assert_eq!(blocks(&rig) < before, discard);
    }
}

#[test]
fn the_serial_number_is_the_id() {
    let mut rig = Rig::new(MODE);
    rig.memory
        .write_slice(&[0xaa; 32], GuestAddress(DATA))
        .unwrap();
    let answer = rig.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(DATA, 20)]);
    assert_eq!(answer, (VIRTIO_BLK_S_OK, 21));
    let serial: [u8; 21] = rig.memory.read_obj(GuestAddress(DATA)).unwrap();
    let mut expected = [0; 21];
    expected[..3].copy_from_slice(b"vda");
    expected[20] = 0xaa;
    assert_eq!(serial, expected);
    // A buffer that is too short gets what fits.
    let answer = rig.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(DATA, 2)]);
    assert_eq!(answer, (VIRTIO_BLK_S_OK, 3));
}

#[test]
fn requests_outside_the_disk_or_of_a_wrong_length_are_refused_and_change_nothing() {
    for mode in modes() {
        let mut rig = Rig::new(mode);
        std::fs::write(&rig.path, vec![7; (SECTORS * 512) as usize]).unwrap();
        for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
            let buffer = |len| match kind {
                VIRTIO_BLK_T_IN => writable(DATA, len),
                _ => readable(DATA, len),
            };
            for (sector, len) in [
                (SECTORS, 512),
                (SECTORS - 1, 1024),
                (u64::MAX, 512),
                (u64::MAX / 512, 512),
                (1 << 55, 512),
                (0, 511),
                (0, 513),
                (0, 1),
                (0, SECTORS as u32 * 512 + 512),
            ] {
                let (status, len) = rig.request(kind, sector, &[buffer(len)]);
                assert_eq!((status, len), (VIRTIO_BLK_S_IOERR, 1), "{kind} {sector}");
            }
            // No data at all, and data of the wrong direction.
            assert_eq!(rig.request(kind, 0, &[]).0, VIRTIO_BLK_S_IOERR);
            // The last sector itself is fine.
            assert_eq!(
                rig.request(kind, SECTORS - 1, &[buffer(512)]).0,
                VIRTIO_BLK_S_OK
            );
        }
        let status = rig.request(VIRTIO_BLK_T_OUT, 0, &[writable(DATA, 512)]).0;
        assert_eq!(status, VIRTIO_BLK_S_IOERR);
        let status = rig.request(VIRTIO_BLK_T_IN, 0, &[readable(DATA, 512)]).0;
        assert_eq!(status, VIRTIO_BLK_S_IOERR);
        let seen = std::fs::read(&rig.path).unwrap();
        assert_eq!(seen.len() as u64, SECTORS * 512);
        assert!(seen[..seen.len() - 512].iter().all(|b| *b == 7));
        assert_eq!(rig.device.counters().rejected(), 22);
        assert!(rig.interrupt.reset_cause().is_none());
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let mut rig = Rig::with(MODE, |config| config.read_only = true);
    assert_ne!(rig.device.features() & bit(VIRTIO_BLK_F_RO), 0);
    assert_eq!(rig.write(0, &[1; 512]), VIRTIO_BLK_S_IOERR);
    let list = ranges(&rig, &[(0, 8, 0)]);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(rig.request(kind, 0, &[list]).0, VIRTIO_BLK_S_IOERR);
    }
    assert_eq!(rig.read(0, 512), (VIRTIO_BLK_S_OK, vec![0; 512]));
    assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, VIRTIO_BLK_S_OK);
}

#[test]
fn unknown_and_unoffered_requests_are_unsupported() {
    let mut rig = Rig::new(Mode {
        features: 0,
        ..MODE
    });
    let list = ranges(&rig, &[(0, 8, 0)]);
    for kind in [
        VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
        2,
        77,
        u32::MAX,
    ] {
        let (status, len) = rig.request(kind, 0, &[list]);
        assert_eq!((status, len), (VIRTIO_BLK_S_UNSUPP, 1), "{kind}");
    }
}

#[test]
fn discard_and_write_zeroes_clear_their_ranges_only() {
    use std::os::unix::fs::MetadataExt;
    for mode in modes() {
        let mut rig = Rig::new(mode);
        std::fs::write(&rig.path, vec![7; (SECTORS * 512) as usize]).unwrap();
        File::open(&rig.path).unwrap().sync_all().unwrap();
        let blocks = std::fs::metadata(&rig.path).unwrap().blocks();
        let list = ranges(&rig, &[(8, 64, 0), (1024, 512, 0)]);
        assert_eq!(
            rig.request(VIRTIO_BLK_T_DISCARD, 0, &[list]).0,
            VIRTIO_BLK_S_OK
        );
        assert!(std::fs::metadata(&rig.path).unwrap().blocks() < blocks);
        let list = ranges(&rig, &[(100, 3, 1)]);
        assert_eq!(
            rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[list]).0,
            VIRTIO_BLK_S_OK
        );
        let list = ranges(&rig, &[(110, 5, 0)]);
        assert_eq!(
            rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[list]).0,
            VIRTIO_BLK_S_OK
        );
        let (status, seen) = rig.read(0, SECTORS as usize * 512);
        assert_eq!(status, VIRTIO_BLK_S_OK);
        for (sector, bytes) in seen.chunks(512).enumerate() {
            let zero = matches!(sector, 8..72 | 1024..1536 | 100..103 | 110..115);
            assert!(
                bytes.iter().all(|b| *b == if zero { 0 } else { 7 }),
                "{mode:?} {sector}"
            );
        }
    }
}

#[test]
fn hostile_range_lists_are_refused() {
    let mut rig = Rig::new(MODE);
    std::fs::write(&rig.path, vec![7; (SECTORS * 512) as usize]).unwrap();
    let ioerr = VIRTIO_BLK_S_IOERR;
    let unsupported = VIRTIO_BLK_S_UNSUPP;
    for (list, discard, zeroes) in [
        (vec![(SECTORS, 1, 0)], ioerr, ioerr),
        (vec![(u64::MAX, 1, 0)], ioerr, ioerr),
        (vec![(0, u32::MAX, 0)], ioerr, ioerr),
        (vec![(0, 8, 1)], unsupported, VIRTIO_BLK_S_OK),
        (vec![(0, 8, 2)], unsupported, unsupported),
        (vec![(0, 8, 0); 17], ioerr, ioerr),
    ] {
        let data = [ranges(&rig, &list)];
        assert_eq!(
            rig.request(VIRTIO_BLK_T_DISCARD, 0, &data).0,
            discard,
            "{list:?}"
        );
        assert_eq!(
            rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &data).0,
            zeroes,
            "{list:?}"
        );
    }
    for len in [0, 1, 15, 17] {
        let data = [readable(DATA, len)];
        assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, &data).0, ioerr);
    }
    let seen = std::fs::read(&rig.path).unwrap();
    assert!(seen[8 * 512..].iter().all(|b| *b == 7));
}

#[test]
fn a_chain_that_cannot_be_answered_makes_the_device_need_a_reset() {
    type Post = fn(&mut Rig);
    let cases: [(&str, Post); 14] = [
        ("a loop", |rig| {
            rig.ring.put_desc(
                0,
                Desc {
                    flags: NEXT,
                    next: 1,
                    ..readable(HEADER, 16)
                },
            );
            rig.ring.put_desc(
                1,
                Desc {
                    flags: NEXT,
                    next: 0,
                    ..readable(DATA, 16)
                },
            );
            rig.ring.publish(0);
        }),
        ("a head outside the table", |rig| rig.ring.publish(256)),
        ("a next outside the table", |rig| {
            rig.ring.put_desc(
                0,
                Desc {
                    flags: NEXT,
                    next: 999,
                    ..readable(HEADER, 16)
                },
            );
            rig.ring.publish(0);
        }),
        ("an available index that ran away", |rig| {
            rig.ring.set_avail_index(257);
        }),
        ("no status", |rig| {
            rig.ring.post(&[readable(HEADER, 16)]);
        }),
        ("an empty status", |rig| {
            rig.ring.post(&[readable(HEADER, 16), writable(STATUS, 0)]);
        }),
        ("a short header", |rig| {
            rig.ring.post(&[readable(HEADER, 15), writable(STATUS, 1)]);
        }),
        ("a writable header", |rig| {
            rig.ring.post(&[writable(HEADER, 16), writable(STATUS, 1)]);
        }),
        ("readable after writable", |rig| {
            rig.ring.post(&[
                readable(HEADER, 16),
                writable(STATUS, 1),
                readable(DATA, 512),
            ]);
        }),
        ("a buffer outside memory", |rig| {
            rig.ring.post(&[
                readable(HEADER, 16),
                writable(2 * SEAM - 1, 512),
                writable(STATUS, 1),
            ]);
        }),
        ("a buffer at the end of the address space", |rig| {
            rig.ring.post(&[
                readable(HEADER, 16),
                writable(u64::MAX - 1, 512),
                writable(STATUS, 1),
            ]);
        }),
        ("an indirect table outside memory", |rig| {
            rig.ring.post(&[Desc {
                flags: INDIRECT,
                ..readable(2 * SEAM, 48)
            }]);
        }),
        ("an indirect table of odd length", |rig| {
            rig.ring.post(&[Desc {
                flags: INDIRECT,
                ..readable(DATA, 17)
            }]);
        }),
        ("an indirect table far longer than the ring", |rig| {
            let table = DATA;
            for i in 0..60_000 {
                let next = i + 1;
                rig.ring.put_desc_at(
                    table,
                    i,
                    Desc {
                        flags: NEXT,
                        next,
                        ..readable(HEADER, 16)
                    },
                );
            }
            rig.ring.put_desc_at(table, 60_000, writable(STATUS, 1));
            rig.ring.post(&[Desc {
                flags: INDIRECT,
                ..readable(table, 60_001 * 16)
            }]);
        }),
    ];
    for (what, post) in cases {
        let mut rig = Rig::new(MODE);
        post(&mut rig);
        let cause = rig.expect_reset();
        assert!(!cause.is_empty(), "{what}");
        assert_eq!(rig.ring.used_index(), 0, "{what}: nothing may be answered");
        // After a reset by the driver the device works again.
        rig.ring = TestRing::new(&rig.memory, RING, 256);
        rig.memory
            .write_slice(&[0; 0x3000], GuestAddress(RING))
            .unwrap();
        let queue = rig.ring.active(0, false);
        rig.activate(vec![queue]);
        assert_eq!(rig.write(0, &[1; 512]), VIRTIO_BLK_S_OK, "{what}");
    }
}

#[test]
fn a_nested_indirect_table_makes_the_device_need_a_reset_and_a_plain_one_works() {
    let mut rig = Rig::new(MODE);
    let table = DATA + 0x10_0000;
    rig.header(HEADER, VIRTIO_BLK_T_IN, 0);
    rig.ring.put_desc_at(
        table,
        0,
        Desc {
            flags: NEXT,
            next: 1,
            ..readable(HEADER, 16)
        },
    );
    rig.ring.put_desc_at(
        table,
        1,
        Desc {
            flags: NEXT | WRITE,
            next: 2,
            ..readable(DATA, 512)
        },
    );
    rig.ring.put_desc_at(table, 2, writable(STATUS, 1));
    let indirect = Desc {
        flags: INDIRECT,
        ..readable(table, 48)
    };
    rig.ring.post(&[indirect]);
    rig.ring.kick();
    assert_eq!(rig.ring.wait_used(), (0, 513));
    rig.ring.put_desc_at(table, 0, indirect);
    rig.ring.post(&[indirect]);
    rig.expect_reset();
}

#[test]
fn header_and_status_may_lie_in_pieces() {
    let mut rig = Rig::new(MODE);
    rig.header(HEADER, VIRTIO_BLK_T_OUT, 3);
    rig.memory
        .write_slice(&[9; 512], GuestAddress(HEADER + 16))
        .unwrap();
    // The header in three pieces, its last together with the data; an empty buffer in between.
    rig.ring.post(&[
        readable(HEADER, 1),
        readable(HEADER + 1, 0),
        readable(HEADER + 1, 14),
        readable(HEADER + 15, 513),
        writable(STATUS, 1),
    ]);
    rig.ring.kick();
    assert_eq!(rig.ring.wait_used().1, 1);
    assert_eq!(rig.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), 0);
    assert_eq!(rig.read(3, 512), (VIRTIO_BLK_S_OK, vec![9; 512]));
    // The status as the last byte of the data buffer.
    rig.header(HEADER, VIRTIO_BLK_T_IN, 3);
    rig.memory
        .write_slice(&[0xff; 514], GuestAddress(DATA))
        .unwrap();
    rig.ring.post(&[readable(HEADER, 16), writable(DATA, 513)]);
    rig.ring.kick();
    assert_eq!(rig.ring.wait_used().1, 513);
    let mut seen = [0; 514];
    rig.memory
        .read_slice(&mut seen, GuestAddress(DATA))
        .unwrap();
    assert_eq!((seen[511], seen[512], seen[513]), (9, 0, 0xff));
}

#[test]
fn the_host_failing_is_an_io_error_and_counted() {
    for mode in modes() {
        let mut rig = Rig::new(mode);
        // The image is cut under the running device: reads find its end.
        File::options()
            .write(true)
            .open(&rig.path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        let (status, len) = rig.request(VIRTIO_BLK_T_IN, 64, &[writable(DATA, 512)]);
        assert_eq!((status, len), (VIRTIO_BLK_S_IOERR, 1), "{mode:?}");
        assert_eq!(rig.device.counters().io_errors(), 1);
        assert_eq!(rig.read(0, 512).0, VIRTIO_BLK_S_OK, "the device goes on");
    }
}

#[test]
fn what_was_taken_before_a_pause_is_done_and_the_rest_waits() {
    for mode in modes() {
        let mut rig = Rig::new(mode);
        for round in 0..20u64 {
            for i in 0..64u64 {
                let header = HEADER + i * 32;
                rig.header(header, VIRTIO_BLK_T_OUT, i * 8);
                let data = DATA + i * 4096;
                let value = ((round * 64 + i + 1) as u32).to_le_bytes();
                rig.memory
                    .write_slice(&value.repeat(1024), GuestAddress(data))
                    .unwrap();
                let status = writable(STATUS + i, 1);
                rig.ring
                    .post(&[readable(header, 16), readable(data, 4096), status]);
            }
            rig.ring.kick();
            if round % 2 == 0 {
                std::thread::yield_now();
            } else {
                eventually("a first answer", || {
                    rig.ring.used_index() != (round * 64) as u16
                });
            }
            let queues = rig.device.quiesce();
            let queue = &queues[0].queue;
            assert_eq!(
                queue.next_avail(),
                queue.next_used(),
                "{mode:?}: nothing is in flight"
            );
            assert_eq!(rig.ring.used_index(), queue.next_used());
            let image = std::fs::read(&rig.path).unwrap();
            let count = queue.next_used().wrapping_sub((round * 64) as u16);
            for _ in 0..count {
                rig.ring.pop_used().unwrap();
            }
            for i in 0..u64::from(count) {
                let at = i as usize * 4096;
                let value = u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
                assert_eq!(
                    u64::from(value),
                    round * 64 + i + 1,
                    "{mode:?}: answered, so written"
                );
            }
            rig.activate(queues);
            // The transport signals once after a restore.
            rig.ring.kick();
            for _ in count..64 {
                rig.ring.wait_used();
            }
            assert!(rig.ring.pop_used().is_none());
        }
        assert_eq!(rig.device.counters().writes(), 20 * 64);
    }
}

#[test]
fn with_event_idx_a_batch_takes_one_interrupt_and_none_is_lost() {
    let mut rig = Rig::new(MODE);
    rig.device.quiesce();
    let queue = rig.ring.active(0, true);
    rig.activate(vec![queue]);
    let mut done = 0u16;
    for batch in [1u16, 32, 7, 64] {
        let before = rig.interrupt.used_count();
        // Wake me when the last of the batch is used.
        rig.ring.set_used_event(done + batch - 1);
        for i in 0..u64::from(batch) {
            rig.header(HEADER + i * 32, VIRTIO_BLK_T_IN, i);
            let status = writable(STATUS + i, 1);
            rig.ring.post(&[
                readable(HEADER + i * 32, 16),
                writable(DATA + i * 512, 512),
                status,
            ]);
        }
        rig.ring.kick();
        done += batch;
        let interrupt = rig.interrupt.clone();
        eventually("the interrupt", || interrupt.used_count() == before + 1);
        assert_eq!(rig.ring.used_index(), done);
    }
    rig.device.quiesce();
    assert_eq!(rig.interrupt.used_count(), 4);
}

#[test]
fn the_configuration_space_names_capacity_block_size_and_limits() {
    let mut rig = Rig::new(MODE);
    let read = |device: &Block, offset: u64, len: usize| {
        let mut bytes = [0; 8];
        device.read_config(offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(read(&rig.device, 0, 8), SECTORS);
    assert_eq!(read(&rig.device, 12, 4), 254);
    assert_eq!(read(&rig.device, 20, 4), 512);
    assert_eq!(read(&rig.device, 24, 1), 3);
    assert_eq!(read(&rig.device, 32, 1), 1);
    assert_eq!(read(&rig.device, 36, 4), 1 << 21);
    assert_eq!(read(&rig.device, 56, 1), 1);
    assert_eq!(read(&rig.device, 57, 8), 0);
    assert_eq!(read(&rig.device, u64::MAX, 8), 0);
    // Only the write cache can be changed.
    rig.device.write_config(0, &[9; 8]);
    rig.device.write_config(u64::MAX, &[9]);
    rig.device.write_config(32, &[]);
    rig.device.write_config(32, &[0]);
    assert_eq!(read(&rig.device, 0, 8), SECTORS);
    assert_eq!(read(&rig.device, 32, 1), 0);
}

#[test]
fn a_saved_disk_is_restored_and_a_wrong_record_changes_nothing() {
    let mut first = Rig::new(MODE);
    first.device.quiesce();
    first.device.write_config(32, &[0]);
    let record = first.device.save();
    let mut second = Rig::new(MODE);
    second.device.quiesce();
    let cache = |rig: &Rig| {
        let mut byte = [9];
        rig.device.read_config(32, &mut byte);
        byte[0]
    };
    for cut in 0..record.len() {
        assert!(second.device.restore(&record[..cut]).is_err());
        let mut flipped = record.clone();
        flipped[cut] ^= 0x10;
        assert!(second.device.restore(&flipped).is_err(), "byte {cut}");
    }
    assert_eq!(cache(&second), 1);
    second.device.restore(&record).unwrap();
    assert_eq!(cache(&second), 0);
    let mut other = Rig::with(MODE, |config| {
        File::options()
            .write(true)
            .open(&config.path)
            .unwrap()
            .set_len(1 << 20 | 4096)
            .unwrap();
    });
    other.device.quiesce();
    let error = other.device.restore(&record).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("2048 sectors and this one 2056"),
        "{source}"
    );
}

#[test]
fn activation_without_its_queue_is_refused() {
    let mut rig = Rig::new(MODE);
    rig.device.quiesce();
    let activation = Activation {
        memory: rig.memory.clone(),
        features: 0,
        queues: vec![],
        interrupt: rig.interrupt.clone(),
    };
    assert!(rig.device.activate(activation).is_err());
    assert!(rig.device.quiesce().is_empty());
}

#[test]
fn a_direct_disk_must_consist_of_whole_blocks() {
    let dir =
        tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).unwrap();
    let path = dir.path().join("disk.raw");
    File::create(&path).unwrap().set_len(4096 + 100).unwrap();
    let config = BlockConfig {
        id: "vda".into(),
        path,
        read_only: false,
        discard: false,
        cache: CacheMode::Direct,
    };
    assert!(matches!(Block::open(&config), Err(DiskError::Size { .. })));
}

/// A step of a random session.
#[derive(Clone, Debug)]
enum Step {
    Read {
        sector: u64,
        cuts: Vec<u32>,
    },
    Write {
        sector: u64,
        cuts: Vec<u32>,
        seed: u8,
    },
    Zero {
        sector: u64,
        sectors: u32,
        unmap: bool,
    },
    Flush,
    Pause,
}

/// Lengths of buffers that add up to whole sectors, aligned or not.
fn cuts() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        prop::collection::vec((1u32..9).prop_map(|n| n * 512), 1..6),
        (1u32..20, prop::collection::vec(1u32..700, 1..8)).prop_map(|(sectors, odd)| {
            let mut rest = sectors * 512;
            let mut all = Vec::new();
            for part in odd {
                if part < rest {
                    all.push(part);
                    rest -= part;
                }
            }
            all.push(rest);
            all
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sector = 0..SECTORS;
    prop_oneof![
        4 => (sector.clone(), cuts()).prop_map(|(sector, cuts)| Step::Read { sector, cuts }),
        6 => (sector.clone(), cuts(), any::<u8>())
            .prop_map(|(sector, cuts, seed)| Step::Write { sector, cuts, seed }),
        1 => (sector, 0u32..64, any::<bool>())
            .prop_map(|(sector, sectors, unmap)| Step::Zero { sector, sectors, unmap }),
        1 => Just(Step::Flush),
        1 => Just(Step::Pause),
    ]
}

/// Buffers of the given lengths, one after the other from `DATA`, or across the seam.
fn buffers(cuts: &[u32], base: u64, make: fn(u64, u32) -> Desc) -> Vec<Desc> {
    let mut at = base;
    cuts.iter()
        .map(|len| {
            let desc = make(at, *len);
            at += u64::from(*len);
            desc
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_session_leaves_the_disk_like_the_model(
        mode in prop::sample::select(modes()),
        base in prop_oneof![Just(DATA), Just(DATA + 3), Just(SEAM - 1024), Just(SEAM - 5)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut rig = Rig::new(mode);
        let mut model = vec![0u8; (SECTORS * 512) as usize];
        for step in steps {
            match step {
                Step::Read { sector, cuts } => {
                    let len: u32 = cuts.iter().sum();
                    let data = buffers(&cuts, base, writable);
                    let (status, used) = rig.request(VIRTIO_BLK_T_IN, sector, &data);
                    let from = (sector * 512) as usize;
                    if let Some(expected) = model.get(from..from + len as usize) {
                        prop_assert_eq!((status, used), (VIRTIO_BLK_S_OK, len + 1));
                        let mut seen = vec![0; len as usize];
                        rig.memory.read_slice(&mut seen, GuestAddress(base)).unwrap();
                        prop_assert!(seen == expected);
                    } else {
                        prop_assert_eq!(status, VIRTIO_BLK_S_IOERR);
                    }
                }
                Step::Write { sector, cuts, seed } => {
                    let len = cuts.iter().sum::<u32>() as usize;
                    let bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
                    rig.memory.write_slice(&bytes, GuestAddress(base)).unwrap();
                    let data = buffers(&cuts, base, readable);
                    let (status, used) = rig.request(VIRTIO_BLK_T_OUT, sector, &data);
                    let from = (sector * 512) as usize;
                    if let Some(place) = model.get_mut(from..from + len) {
                        prop_assert_eq!((status, used), (VIRTIO_BLK_S_OK, 1));
                        place.copy_from_slice(&bytes);
                    } else {
                        prop_assert_eq!(status, VIRTIO_BLK_S_IOERR);
                    }
                }
                Step::Zero { sector, sectors, unmap } => {
                    let list = [ranges(&rig, &[(sector, sectors, unmap.into())])];
                    let (status, _) = rig.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &list);
                    let from = (sector * 512) as usize;
                    if let Some(place) = model.get_mut(from..from + sectors as usize * 512) {
                        prop_assert_eq!(status, VIRTIO_BLK_S_OK);
                        place.fill(0);
                    } else {
                        prop_assert_eq!(status, VIRTIO_BLK_S_IOERR);
                    }
                }
                Step::Flush => {
                    prop_assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, VIRTIO_BLK_S_OK);
                }
                Step::Pause => {
                    let queues = rig.device.quiesce();
                    rig.activate(queues);
                }
            }
        }
        rig.device.quiesce();
        prop_assert!(std::fs::read(&rig.path).unwrap() == model);
    }
}
