//! `godwit migrate` against targets that lie, stall and flood: the guest stays, unharmed, for a coded
//! reason.

use std::time::Duration;

use godwit_migration::transport::{CloseCode, TargetLink};
use godwit_node::guest_process::client::Moved;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::id::Epoch;
use godwit_proto::migrate::{Accept, FromSource, FromTarget, PageRun, ResumeTimes};
use godwit_proto::version::VersionRange;
use tokio::time::timeout;

use crate::moving::{assert_healthy, migrate, move_slowly, receive, run};
use crate::peer::{
    FakeTarget, answer, drain_bulk, greet, hear_out, hear_source, peak_bytes, runtime, send, within,
};
use crate::support::{PATIENCE, godwit, has_kvm};

const GUEST: &str = "heartbeat=20 every=50 check=16M,rate:5000,verify:50000 regs";
/// What a source may come to use: the guest touches some 20 MiB, copies of pages for deltas are at most
/// 48 MiB, and windows and buffers are bounded.
const MOST_BYTES: u64 = 128 << 20;
/// What messages that it cannot answer may add: a window, and what little is taken out of it.
const MOST_BY_FLOOD_BYTES: u64 = 16 << 20;

/// How long a peer floods.
const FLOOD: Duration = Duration::from_secs(5);

/// What a target does wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    NoHello,
    OtherVersion,
    RefusesWithoutReason,
    RefusesAThousandTimes,
    Garbage,
    SpeaksAsSource,
    TooLong,
    AcceptsTwice,
    AcknowledgesNoRound,
    ReadyAtOnce,
    ResumedAtOnce,
    NotStartedAtOnce,
    CompleteAtOnce,
    AsksForPages,
    Cancels,
    Aborts,
    ReadsNoPages,
    RefusesPages,
    SaysNoMore,
    Floods,
}

impl Lie {
    /// All of them, and the exit codes that tell them.
    const ALL: &[(Self, ErrorCode)] = &[
        (Self::NoHello, ErrorCode::PeerProtocol),
        (Self::OtherVersion, ErrorCode::PeerProtocol),
        (Self::RefusesWithoutReason, ErrorCode::Refused),
        (Self::RefusesAThousandTimes, ErrorCode::Disk),
        (Self::Garbage, ErrorCode::PeerProtocol),
        (Self::SpeaksAsSource, ErrorCode::PeerProtocol),
        (Self::TooLong, ErrorCode::PeerProtocol),
        (Self::AcceptsTwice, ErrorCode::PeerProtocol),
        (Self::AcknowledgesNoRound, ErrorCode::PeerProtocol),
        (Self::ReadyAtOnce, ErrorCode::PeerProtocol),
        (Self::ResumedAtOnce, ErrorCode::PeerProtocol),
        (Self::NotStartedAtOnce, ErrorCode::PeerProtocol),
        (Self::CompleteAtOnce, ErrorCode::PeerProtocol),
        (Self::AsksForPages, ErrorCode::PeerProtocol),
        (Self::Cancels, ErrorCode::Cancelled),
        (Self::Aborts, ErrorCode::Memory),
        (Self::ReadsNoPages, ErrorCode::PeerProtocol),
        (Self::RefusesPages, ErrorCode::PeerProtocol),
        (Self::SaysNoMore, ErrorCode::TimedOut),
        (Self::Floods, ErrorCode::LinkLost),
    ];

    async fn tell(self, link: &mut TargetLink) {
        match self {
            Self::NoHello => {
                hear(link).await;
                say(link, FromTarget::Accept(Accept::default())).await;
                return hear_out(&mut link.control).await;
            }
            Self::OtherVersion => {
                let newer = VersionRange::new(2, 3).unwrap();
                link.control.sender.send_hello(newer).await.unwrap();
                return hear_out(&mut link.control).await;
            }
            _ => greet(&mut link.control).await,
        }
        let offered = hear_source(&mut link.control).await;
        assert!(matches!(offered, Some(FromSource::Offer(_))), "{offered:?}");
        self.answer_offer(link).await;
        hear_out(&mut link.control).await;
    }

    async fn answer_offer(self, link: &mut TargetLink) {
        let accept = FromTarget::Accept(Accept::default());
        let epoch = Epoch::new(1);
        let error = |code| CodedError::new(code, "x".repeat(1000));
        match self {
            Self::NoHello | Self::OtherVersion => unreachable!("told before the offer"),
            Self::RefusesWithoutReason => say(link, FromTarget::Refuse(Vec::new())).await,
            Self::RefusesAThousandTimes => {
                say(link, FromTarget::Refuse(vec![error(ErrorCode::Disk); 1000])).await;
            }
            Self::Garbage => {
                send(&mut link.control, FrameKind::FromTarget, &[0xa5; 100]).await;
            }
            Self::SpeaksAsSource => {
                let payload = FromSource::PushDone.to_payload(1).unwrap();
                send(&mut link.control, FrameKind::FromSource, &payload).await;
            }
            Self::TooLong => {
                send(&mut link.control, FrameKind::FromTarget, &vec![0; 20 << 20]).await;
            }
            Self::AcceptsTwice => {
                say(link, accept.clone()).await;
                say(link, accept).await;
            }
            Self::AcknowledgesNoRound => {
                say(link, accept).await;
                say(link, FromTarget::RoundAck { round: 7 }).await;
            }
            Self::ReadyAtOnce => {
                say(link, accept).await;
                say(link, FromTarget::Ready).await;
            }
            Self::ResumedAtOnce => say(link, FromTarget::Resumed(ResumeTimes::default())).await,
            Self::NotStartedAtOnce => {
                let error = error(ErrorCode::Other);
                say(link, FromTarget::NotStarted { epoch, error }).await;
            }
            Self::CompleteAtOnce => say(link, FromTarget::Complete).await,
            Self::AsksForPages => {
                say(link, accept).await;
                let (first, count) = (u64::MAX, u64::MAX);
                let run = PageRun { first, count };
                say(link, FromTarget::PageRequest(run)).await;
            }
            Self::Cancels => {
                say(link, accept).await;
                say(link, FromTarget::Cancel).await;
            }
            Self::Aborts => say(link, FromTarget::Abort(error(ErrorCode::Memory))).await,
            Self::ReadsNoPages => say(link, accept).await,
            Self::RefusesPages => {
                link.bulk.clear();
                say(link, accept).await;
            }
            Self::SaysNoMore => {
                drain_bulk(link);
                say(link, accept).await;
            }
            Self::Floods => {
                let ping = FromTarget::Ping { nonce: 1 }.to_payload(1).unwrap();
                let flood = async {
                    // It never listens to the answers.
                    while send(&mut link.control, FrameKind::FromTarget, &ping).await {}
                };
                let _ = timeout(FLOOD, flood).await;
                link.peer.close(CloseCode::Done, "").await;
            }
        }
    }
}

async fn hear(link: &mut TargetLink) {
    let _ = link.control.receiver.receive(PATIENCE).await;
}

async fn say(link: &mut TargetLink, message: FromTarget) {
    answer(&mut link.control, &message).await;
}

#[test]
fn whatever_a_target_says_the_guest_stays_for_a_coded_reason_and_can_be_moved_later() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", GUEST);
    assert_healthy(&mut source);
    let runtime = runtime();
    let mut wrong = Vec::new();
    for &(lie, expected) in Lie::ALL {
        let mut target = FakeTarget::listen(&runtime);
        let (to, token) = (target.to(), target.token());
        let told = runtime.spawn(async move {
            let mut link = target.accept().await;
            lie.tell(&mut link).await;
        });
        let words = ["--from", "a.sock", "--to", &to, "--token", &token];
        let words = [&["migrate", "--timeout", "7"], &words[..]].concat();
        let before = peak_bytes(source.pid()).unwrap();
        let moved = godwit(dir, &words);
        runtime.block_on(within(PATIENCE, told)).unwrap();
        if moved.code != Some(i32::from(expected.exit_code())) {
            wrong.push(format!("{lie:?}: {:?}: {}", moved.code, moved.stderr));
        }
        assert!(moved.stderr.len() < 100_000, "{lie:?}: a flood of words");
        let peak = peak_bytes(source.pid()).unwrap();
        assert!(peak < MOST_BYTES, "{lie:?}: {peak} bytes");
        if let Lie::Floods = lie {
            let more = peak - before;
            assert!(more < MOST_BY_FLOOD_BYTES, "{more} bytes by a flood");
        }
        assert_healthy(&mut source);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    let (mut target, to, token) = receive(dir, "token", &[]);
    let moved = migrate(dir, "a.sock", &to, &token);
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    assert_healthy(&mut target);
}

/// Takes a guest by the book, up to the relinquish; its epoch.
async fn take(link: &mut TargetLink) -> Epoch {
    greet(&mut link.control).await;
    drain_bulk(link);
    loop {
        let said = hear_source(&mut link.control).await;
        let reply = match said.expect("the source goes on") {
            FromSource::Offer(_) => FromTarget::Accept(Accept::default()),
            FromSource::RoundEnd { round, .. } => FromTarget::RoundAck { round },
            FromSource::Relinquish { epoch } => return epoch,
            FromSource::Switch { .. } => {
                // Readiness is for both the last round and the state, whichever ends first.
                let mut awaited = 2;
                while awaited > 0 {
                    let said = hear_source(&mut link.control).await;
                    awaited -= match said.expect("the source goes on") {
                        FromSource::RoundEnd { .. } | FromSource::State { .. } => 1,
                        _ => 0,
                    };
                }
                FromTarget::Ready
            }
            _ => continue,
        };
        say(link, reply).await;
    }
}

#[test]
fn a_confused_target_that_never_ran_the_guest_gives_it_back() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", GUEST);
    assert_healthy(&mut source);
    let runtime = runtime();
    let mut target = FakeTarget::listen(&runtime);
    let (to, token) = (target.to(), target.token());
    let told = runtime.spawn(async move {
        let mut link = target.accept().await;
        let epoch = take(&mut link).await;
        let error = CodedError::new(ErrorCode::Disk, "it has no disk");
        for nonsense in [
            FromTarget::Ready,
            FromTarget::RoundAck { round: 1 },
            FromTarget::Accept(Accept::default()),
            FromTarget::Cancel,
            FromTarget::Abort(error.clone()),
            FromTarget::NotStarted {
                epoch: Epoch::new(epoch.get() + 1),
                error: error.clone(),
            },
            FromTarget::NotStarted { epoch, error },
        ] {
            say(&mut link, nonsense).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        hear_out(&mut link.control).await;
    });
    let moved = migrate(dir, "a.sock", &to, &token);
    runtime.block_on(within(PATIENCE, told)).unwrap();
    let never = i32::from(ErrorCode::NeverStarted.exit_code());
    assert_eq!(moved.code, Some(never), "{}", moved.stderr);
    assert!(moved.stderr.contains("no disk"), "{}", moved.stderr);
    assert_healthy(&mut source);
}

#[test]
fn a_token_lets_one_source_in_and_the_second_waits_for_nothing() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let quiet = "heartbeat=20 every=50 check=2M,rate:100,verify:5000 regs";
    let first = run(dir, "a.sock", "1", quiet);
    let mut second = run(dir, "b.sock", "1", quiet);
    let (mut target, to, token) = receive(dir, "token", &[]);
    let mover = move_slowly(dir, "a.sock", &to, &token);
    let refused = migrate(dir, "b.sock", &to, &token);
    let code = Some(i32::from(ErrorCode::PeerProtocol.exit_code()));
    assert_eq!(refused.code, code, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("already used"),
        "{}",
        refused.stderr
    );
    assert_healthy(&mut second);
    let Moved { moved, receipt, .. } = mover.join().unwrap().unwrap();
    assert!(moved, "{receipt}");
    assert_eq!(first.end().code, Some(0));
    assert_healthy(&mut target);
}
