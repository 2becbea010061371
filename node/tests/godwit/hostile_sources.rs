//! `godwit receive` against sources that lie, stall and flood: it ends for a coded reason, in bounded
//! memory, and nothing of what was built is left.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use godwit_migration::page::{
    CodecChooser, Compression, DEFAULT_COPIES_BYTES, DigestSeed, DigestTable, PageEncoder,
    SentPages,
};
use godwit_migration::ports::{GuestMemory, PAGE_BYTES, PortError};
use godwit_migration::transport::{CloseCode, SourceLink};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::guest::GuestSpec;
use godwit_proto::id::Epoch;
use godwit_proto::migrate::{
    FromSource, FromTarget, Offer, OfferedDevice, PageRun, RoundTotals, SwitchKind,
};
use godwit_proto::record::Record;
use godwit_proto::version::VersionRange;
use tokio::time::timeout;

use crate::moving::{assert_healthy, migrate, receive, run};
use crate::peer::{
    FakeTarget, answer, dial, greet, hear_out, hear_source, hear_target, runtime, send, watch_peak,
    within,
};
use crate::support::{PATIENCE, has_kvm, names};

/// The offered guest has 128 MiB, of which nothing is written.
const MOST_BYTES: u64 = 48 << 20;
/// How long a peer floods.
const FLOOD: Duration = Duration::from_secs(5);
/// Targets that are lied to at once.
const AT_ONCE: usize = 4;

/// What a source does wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    SaysNothing,
    NoHello,
    OtherVersion,
    Garbage,
    SpeaksAsTarget,
    TooLong,
    CutShort,
    RoundBeforeOffer,
    SpecGarbage,
    MorePages,
    FewerPages,
    PagesWithoutEnd,
    NoStreams,
    TooManyStreams,
    MoreMemoryThanThereIs,
    OtherCpu,
    OtherDevice,
    DiskThatIsNotHere,
    EverythingAtOnce,
    OffersTwice,
    RoundOutOfOrder,
    BatchGarbage,
    BatchOutside,
    BatchTwice,
    BatchOfAnotherRound,
    MoreBatchesThanCounted,
    MissingOutside,
    StateBeforeSwitch,
    StateGarbage,
    RelinquishUnasked,
    Leaves,
    Floods,
}

impl Lie {
    /// All of them, and the exit codes that tell them.
    const ALL: &[(Self, ErrorCode)] = &[
        (Self::SaysNothing, ErrorCode::TimedOut),
        (Self::NoHello, ErrorCode::PeerProtocol),
        (Self::OtherVersion, ErrorCode::PeerProtocol),
        (Self::Garbage, ErrorCode::PeerProtocol),
        (Self::SpeaksAsTarget, ErrorCode::PeerProtocol),
        (Self::TooLong, ErrorCode::PeerProtocol),
        (Self::CutShort, ErrorCode::LinkLost),
        (Self::RoundBeforeOffer, ErrorCode::PeerProtocol),
        (Self::SpecGarbage, ErrorCode::PeerProtocol),
        (Self::MorePages, ErrorCode::PeerProtocol),
        (Self::FewerPages, ErrorCode::PeerProtocol),
        (Self::PagesWithoutEnd, ErrorCode::Memory),
        (Self::NoStreams, ErrorCode::PeerProtocol),
        (Self::TooManyStreams, ErrorCode::PeerProtocol),
        (Self::MoreMemoryThanThereIs, ErrorCode::Memory),
        (Self::OtherCpu, ErrorCode::CpuIncompatible),
        (Self::OtherDevice, ErrorCode::DeviceIncompatible),
        (Self::DiskThatIsNotHere, ErrorCode::Disk),
        (Self::EverythingAtOnce, ErrorCode::CpuIncompatible),
        (Self::OffersTwice, ErrorCode::PeerProtocol),
        (Self::RoundOutOfOrder, ErrorCode::PeerProtocol),
        (Self::BatchGarbage, ErrorCode::PeerProtocol),
        (Self::BatchOutside, ErrorCode::PeerProtocol),
        (Self::BatchTwice, ErrorCode::PeerProtocol),
        (Self::BatchOfAnotherRound, ErrorCode::PeerProtocol),
        (Self::MoreBatchesThanCounted, ErrorCode::PeerProtocol),
        (Self::MissingOutside, ErrorCode::PeerProtocol),
        (Self::StateBeforeSwitch, ErrorCode::PeerProtocol),
        (Self::StateGarbage, ErrorCode::Other),
        (Self::RelinquishUnasked, ErrorCode::PeerProtocol),
        (Self::Leaves, ErrorCode::LinkLost),
        (Self::Floods, ErrorCode::LinkLost),
    ];

    /// The offer as this source makes it.
    fn offer(self, mut offer: Offer) -> Offer {
        let mut spec = GuestSpec::decode(&offer.spec).unwrap();
        let unknown = OfferedDevice {
            slot: 1,
            device_type: 0x7fff,
            id: "future".into(),
        };
        match self {
            Self::SpecGarbage => offer.spec = vec![0x5a; 300],
            Self::MorePages => offer.pages += 1,
            Self::FewerPages => offer.pages = 1,
            Self::PagesWithoutEnd => offer.pages = u64::MAX,
            Self::NoStreams => offer.streams = 0,
            Self::TooManyStreams => offer.streams = u16::MAX,
            Self::MoreMemoryThanThereIs => {
                spec.memory.size_bytes = 1 << 40;
                offer.spec = spec.encode().unwrap();
                offer.pages = (1 << 40) / PAGE_BYTES as u64;
            }
            Self::OtherCpu => all_features(&mut offer),
            Self::OtherDevice => offer.devices.push(unknown),
            Self::DiskThatIsNotHere => {
                let disk = godwit_proto::guest::DiskSpec {
                    id: "disk0".into(),
                    path: "not-here".into(),
                    read_only: false,
                    discard: false,
                    direct: false,
                };
                spec.disks.push(disk);
                offer.spec = spec.encode().unwrap();
                let block_type = 2;
                offer.devices.insert(
                    0,
                    OfferedDevice {
                        slot: 1,
                        device_type: block_type,
                        id: "disk0".into(),
                    },
                );
                for (slot, device) in (1..).zip(&mut offer.devices) {
                    device.slot = slot;
                }
            }
            Self::EverythingAtOnce => {
                all_features(&mut offer);
                offer.devices.push(unknown);
                spec.memory.size_bytes = 1 << 40;
                offer.spec = spec.encode().unwrap();
                offer.pages = (1 << 40) / PAGE_BYTES as u64;
            }
            _ => {}
        }
        offer
    }

    async fn tell(self, link: &mut SourceLink, offer: Offer) -> Vec<CodedError> {
        match self {
            Self::NoHello => {
                say(link, FromSource::Offer(Box::new(offer))).await;
                return Vec::new();
            }
            Self::OtherVersion => {
                let newer = VersionRange::new(2, 3).unwrap();
                link.control.sender.send_hello(newer).await.unwrap();
                return Vec::new();
            }
            _ => greet(&mut link.control).await,
        }
        match self {
            Self::SaysNothing => return Vec::new(),
            Self::Garbage => {
                send(&mut link.control, FrameKind::FromSource, &[0x77; 4000]).await;
                return Vec::new();
            }
            Self::SpeaksAsTarget => {
                let payload = FromTarget::Ready.to_payload(1).unwrap();
                send(&mut link.control, FrameKind::FromTarget, &payload).await;
                return Vec::new();
            }
            Self::TooLong => {
                send(&mut link.control, FrameKind::FromSource, &vec![1; 20 << 20]).await;
                return Vec::new();
            }
            Self::RoundBeforeOffer => {
                let (round, pages) = (1, 1);
                say(link, FromSource::RoundBegin { round, pages }).await;
                return Vec::new();
            }
            Self::Floods => {
                let ping = FromSource::Ping { nonce: 1 }.to_payload(1).unwrap();
                let flood =
                    async { while send(&mut link.control, FrameKind::FromSource, &ping).await {} };
                let _ = timeout(FLOOD, flood).await;
                link.peer.close(CloseCode::Done, "").await;
                return Vec::new();
            }
            _ => {}
        }
        say(link, FromSource::Offer(Box::new(self.offer(offer.clone())))).await;
        if let Self::OffersTwice = self {
            say(link, FromSource::Offer(Box::new(offer.clone()))).await;
            return Vec::new();
        }
        match hear_target(&mut link.control).await {
            Some(FromTarget::Accept(_)) => self.go_on(link, &offer).await,
            Some(FromTarget::Refuse(reasons)) => return reasons,
            _ => {}
        }
        Vec::new()
    }

    /// What is wrong after the offer was accepted.
    async fn go_on(self, link: &mut SourceLink, offer: &Offer) {
        let begin = |round| FromSource::RoundBegin { round, pages: 1 };
        let end = |batches: u64| FromSource::RoundEnd {
            round: 1,
            totals: RoundTotals {
                batches: vec![batches, 0, 0, 0],
                pages: batches,
                bytes: 0,
            },
        };
        match self {
            Self::RoundOutOfOrder => say(link, begin(2)).await,
            Self::CutShort => {
                // A batch of which the end never comes.
                let batch = batches(offer, 0, 0, 1);
                let _ = link.bulk[0].write(&batch[..batch.len() - 1]).await;
                say(link, begin(1)).await;
                say(link, end(1)).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                link.peer.close(CloseCode::Done, "").await;
            }
            Self::BatchGarbage => drop(link.bulk[0].write(&[0x5a; 10_000]).await),
            Self::BatchOutside => {
                drop(link.bulk[0].write(&batches(offer, 0, offer.pages, 1)).await);
            }
            Self::BatchTwice => {
                let batch = batches(offer, 0, 0, 1);
                drop(link.bulk[0].write(&[&batch[..], &batch[..]].concat()).await);
            }
            Self::BatchOfAnotherRound => drop(link.bulk[0].write(&batches(offer, 9, 0, 1)).await),
            Self::MoreBatchesThanCounted => {
                say(link, begin(1)).await;
                drop(link.bulk[0].write(&batches(offer, 0, 0, 1)).await);
                say(link, end(0)).await;
            }
            Self::MissingOutside => {
                let kind = SwitchKind::PostCopy;
                say(link, FromSource::Switch { kind }).await;
                let (first, count) = (offer.pages, u64::MAX);
                let runs = vec![PageRun { first, count }];
                say(link, FromSource::Missing { runs, last: true }).await;
            }
            Self::StateBeforeSwitch => say(link, FromSource::State { bytes: vec![0; 9] }).await,
            Self::StateGarbage => {
                let kind = SwitchKind::LastRound(1);
                say(link, FromSource::Switch { kind }).await;
                say(link, begin(1)).await;
                say(link, end(0)).await;
                let bytes = vec![0x5a; 100_000];
                say(link, FromSource::State { bytes }).await;
            }
            Self::RelinquishUnasked => {
                let epoch = Epoch::new(1);
                say(link, FromSource::Relinquish { epoch }).await;
            }
            Self::Leaves => {
                link.peer.close(CloseCode::Done, "").await;
            }
            other => panic!("{other:?} was accepted"),
        }
    }
}

async fn say(link: &mut SourceLink, message: FromSource) {
    crate::peer::say(&mut link.control, &message).await;
}

/// A CPU that has everything.
fn all_features(offer: &mut Offer) {
    let extended_features = 7;
    for entry in &mut offer.cpuid {
        if entry.function == extended_features && entry.index == 0 {
            (entry.ebx, entry.ecx, entry.edx) = (u32::MAX, u32::MAX, u32::MAX);
        }
    }
}

/// Bytes of a bulk stream with `count` pages from `first` on.
fn batches(offer: &Offer, round: u32, first: u64, count: u64) -> Vec<u8> {
    struct Pages(u64);
    impl GuestMemory for Pages {
        fn pages(&self) -> u64 {
            self.0
        }
        fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), PortError> {
            bytes.fill(7);
            Ok(())
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), PortError> {
            Err("it is only read".into())
        }
        fn write_zeros(&self, _: u64, _: u64) -> Result<(), PortError> {
            Err("it is only read".into())
        }
        fn is_untouched(&self, _: u64, _: u64) -> bool {
            false
        }
    }
    let pages = offer.pages + count;
    let id = offer.migration.as_bytes();
    let half = |from: usize| u64::from_le_bytes(id[from..from + 8].try_into().unwrap());
    let digests = DigestTable::new(pages, DigestSeed(half(0) ^ half(8)));
    let sent = Arc::new(SentPages::new(Arc::new(digests), DEFAULT_COPIES_BYTES));
    let codec = CodecChooser::new(Compression::Off);
    let mut encoder = PageEncoder::new(sent, codec, Box::new(|| Duration::ZERO));
    let mut bytes = Vec::new();
    encoder
        .encode(&Pages(pages), [(first, count)], round, &mut bytes)
        .unwrap();
    bytes
}

/// The offer of a real guest, which then stays where it is.
fn real_offer() -> Offer {
    let dir = tempfile::tempdir().unwrap();
    let mut source = run(
        dir.path(),
        "a.sock",
        "1",
        "heartbeat=20 every=50 check=1M regs",
    );
    let runtime = runtime();
    let mut target = FakeTarget::listen(&runtime);
    let (to, token) = (target.to(), target.token());
    let told = runtime.spawn(async move {
        let mut link = target.accept().await;
        greet(&mut link.control).await;
        let Some(FromSource::Offer(offer)) = hear_source(&mut link.control).await else {
            panic!("no offer");
        };
        let reasons = vec![CodedError::new(ErrorCode::Refused, "not now")];
        answer(&mut link.control, &FromTarget::Refuse(reasons)).await;
        hear_out(&mut link.control).await;
        *offer
    });
    let refused = migrate(dir.path(), "a.sock", &to, &token);
    let code = Some(i32::from(ErrorCode::Refused.exit_code()));
    assert_eq!(refused.code, code, "{}", refused.stderr);
    assert_healthy(&mut source);
    runtime.block_on(within(PATIENCE, told)).unwrap()
}

/// Lies to one target; what was not as it has to be.
fn lie_to_a_target(lie: Lie, expected: ErrorCode, offer: Offer) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (target, to, token) = receive(dir.path(), "token", &["--patience", "30"]);
    let watched = watch_peak(target.pid());
    let runtime = runtime();
    let reasons = runtime.block_on(within(2 * PATIENCE, async {
        let mut link = dial(&to, &token).await.unwrap();
        let reasons = lie.tell(&mut link, offer).await;
        // To the end, with its reason.
        hear_out(&mut link.control).await;
        reasons
    }));
    let ended = target.end();
    let mut wrong = Vec::new();
    let peak = watched.join().unwrap();
    if peak >= MOST_BYTES {
        wrong.push(format!("{lie:?}: {peak} bytes"));
    }
    if matches!(lie, Lie::EverythingAtOnce) && reasons.len() != 3 {
        wrong.push(format!("{lie:?}: {reasons:?}"));
    }
    if ended.code != Some(i32::from(expected.exit_code())) {
        wrong.push(format!("{lie:?}: {:?}: {}", ended.code, ended.stderr));
    }
    if !ended.stdout.is_empty() {
        wrong.push(format!("{lie:?}: a guest ran: {:?}", ended.stdout));
    }
    if names(dir.path()) != ["token"] {
        wrong.push(format!("{lie:?}: it leaves {:?}", names(dir.path())));
    }
    wrong
}

#[test]
fn whatever_a_source_says_the_target_ends_for_a_coded_reason_in_bounded_memory() {
    if !has_kvm() {
        return;
    }
    let offer = real_offer();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = thread::scope(|scope| {
        let lanes: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut wrong = Vec::new();
                    while let Some(&(lie, expected)) =
                        Lie::ALL.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        wrong.extend(lie_to_a_target(lie, expected, offer.clone()));
                    }
                    wrong
                })
            })
            .collect();
        let lanes = lanes.into_iter().flat_map(|lane| lane.join().unwrap());
        lanes.collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}
