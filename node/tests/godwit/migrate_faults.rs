//! Every fault at every step of a migration between real processes.
//!
//! Each case moves a guest with a fault injected, and then judges by what can be seen from outside:
//! exit codes, the receipt, and the guest's heartbeats, which are numbered. A number that comes twice
//! is a guest that ran twice. After a failure that leaves the guest at the source it is moved without a
//! fault, which has to succeed; the guest of the next case is that one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use godwit_migration::fault::{Fault, OnError, Side, Step};
use godwit_proto::codes::ErrorCode;
use tempfile::TempDir;

use crate::moving::{receive, wait_for};
use crate::support::{PATIENCE, Running, field, godwit, has_kvm, say_skipped};

/// Cases that run at once. Most of their time they wait until a dead peer is taken for dead.
const LANES: usize = 12;
/// Small, so that a move is short.
const GUEST: &str = "heartbeat=20 every=200 check=2M,rate:2000,verify:20000";
/// Long enough to be more than the noise of a loaded machine, shorter than any limit of a peer.
const DELAY: &str = "delay:300ms";

/// How long a side waits for one that is gone: longer than that is not noticed, and short for a test.
const WINDOW: [&str; 2] = ["--recovery-window", "6"];

/// When a step is taken in a migration by pre-copy.
enum Taken {
    /// While the source owns the guest.
    Before,
    /// When the source has given it up.
    After,
    /// While the source owns it, if this fault was met first.
    Unwinding(&'static str),
    /// When the source has given it up, if this fault was met first.
    UnwindingAfter(&'static str),
    /// When the source has given it up, if somebody wants it to stop all the same.
    TooLate(&'static str),
    /// While the source owns it, when memory is compared.
    Compared,
    /// While the source owns it, when memory is to follow the guest.
    BeforeItFollows,
    /// While memory follows the guest, this how-manieth time; the first pages may be what restoring the
    /// state needs, when the source still owns it.
    Following(u32),
    /// While memory follows the guest, if this fault was met first.
    Recovering(&'static str),
    /// While the source owns it, when it writes more than the link takes and memory is to follow it.
    Outrun,
    /// Only of guests that are slowed, see `migrate_limits`.
    Elsewhere,
}

/// No catch-all: a new step has to be placed.
fn taken(step: Step) -> Taken {
    match step {
        Step::SendOffer
        | Step::StartDirtyLog
        | Step::SendRoundBegin
        | Step::SendRound
        | Step::SendRoundEnd
        | Step::CollectDirty
        | Step::OpenWindow
        | Step::PauseGuest
        | Step::SaveState
        | Step::SendSwitch
        | Step::SendState
        | Step::Prepare
        | Step::SendAccept
        | Step::ApplyBatch
        | Step::SendRoundAck
        | Step::RestoreState
        | Step::SendReady => Taken::Before,
        Step::Relinquish
        | Step::SendRelinquish
        | Step::StopDirtyLog
        | Step::FreeMemory
        | Step::SourceFinish
        | Step::ResumeTarget
        | Step::AnnounceNetwork
        | Step::SendResumed
        | Step::MemoryWhole
        | Step::Commit
        | Step::SendComplete
        | Step::TargetFinish => Taken::After,
        Step::ResumeSource => Taken::Unwinding("source:save-state=error"),
        Step::StopSending => Taken::Unwinding("source:send-round=error"),
        Step::SourceAbort => Taken::Unwinding("source:collect-dirty=error"),
        Step::CloseWindow => Taken::Unwinding("source:pause-guest=error"),
        Step::TargetAbort | Step::Discard => Taken::Unwinding("target:restore-state=error"),
        Step::SendRefuse => Taken::Unwinding("target:prepare=error"),
        Step::SendCancel => Taken::Unwinding("target:send-accept=cancel"),
        Step::SourceTooLate => Taken::TooLate("source:send-relinquish=cancel"),
        Step::TargetTooLate => Taken::TooLate("target:send-ready=cancel"),
        Step::SendNotStarted => Taken::UnwindingAfter("target:resume-guest=error"),
        Step::DigestMemory | Step::SendDigests | Step::CheckDigests => Taken::Compared,
        Step::SendMissing | Step::RegisterMissing => Taken::BeforeItFollows,
        Step::SendPages | Step::RequestPages | Step::InstallPages => Taken::Following(4),
        Step::SendPushDone => Taken::Following(1),
        // Longer than a dead peer goes unnoticed, and shorter than the window.
        Step::Redial | Step::SendRecover | Step::SendReceived => {
            Taken::Recovering("source:send-relinquish=cut:4s")
        }
        Step::SendStale | Step::GiveUp | Step::SendGaveUp => Taken::Outrun,
        Step::SetThrottle => Taken::Elsewhere,
    }
}

/// A fault at a step, and one that leads there.
#[derive(Clone, Debug)]
struct Case {
    step: Step,
    fault: Fault,
    cause: Option<&'static str>,
    /// Whether the source may have given the guest up when it strikes.
    after: bool,
    /// Whether what leads there, and a cancel there, changes nothing.
    too_late: bool,
    /// How it is moved.
    how: &'static [&'static str],
    occurrence: u32,
}

impl Case {
    /// What is injected at `side`.
    fn injections(&self, side: Side) -> Vec<String> {
        let own = format!("{}@{}={}", self.step, self.occurrence, self.fault);
        let all = self.cause.map(str::to_owned).into_iter().chain([own]);
        all.filter(|text| text.starts_with(&side.to_string()))
            .collect()
    }

    fn kills(&self, side: Side) -> bool {
        self.fault == Fault::Kill && self.step.side() == side
    }

    /// Whether the guest is to stay at the source, which lives.
    fn stays(&self) -> bool {
        !self.after && !self.moves() && !self.kills(Side::Source)
    }

    /// Whether nothing but time is lost.
    fn moves(&self) -> bool {
        let harmless = match self.fault {
            Fault::Delay(_) => true,
            Fault::Cancel => self.too_late,
            _ => false,
        };
        harmless && (self.cause.is_none() || self.too_late)
    }
}

/// Every step at which memory is (not) compared, nor follows the guest.
fn cases(plain: bool, faults: &[&str]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &step in Step::ALL {
        let pre_copy: &[&str] = &["--mode", "pre-copy"];
        let post_copy: &[&str] = &["--mode", "post-copy"];
        let (after, too_late, cause, how) = match taken(step) {
            // A target that is ready waits for the source's word, whatever its user wants.
            Taken::Before => (false, step == Step::SendReady, None, pre_copy),
            Taken::After => (true, true, None, pre_copy),
            Taken::Unwinding(cause) => (false, false, Some(cause), pre_copy),
            Taken::UnwindingAfter(cause) => (true, false, Some(cause), pre_copy),
            Taken::TooLate(cause) => (true, true, Some(cause), pre_copy),
            Taken::Compared => (false, false, None, &["--verify"][..]),
            Taken::BeforeItFollows => (false, false, None, post_copy),
            Taken::Following(_) => (true, true, None, post_copy),
            Taken::Recovering(cause) => (true, true, Some(cause), post_copy),
            // A quarter of what the guest writes.
            Taken::Outrun => (false, false, None, &["--bandwidth", "2M"][..]),
            Taken::Elsewhere => continue,
        };
        if (how == pre_copy) != plain {
            continue;
        }
        for fault in faults {
            let fault: Fault = fault.parse().unwrap();
            if fault.fails_the_step() && step.on_error() == OnError::Never {
                continue;
            }
            // Reading pages is no command of the machine's, and so not cancelled.
            let reads = matches!(step, Step::ApplyBatch | Step::InstallPages);
            if fault == Fault::Cancel && reads {
                continue;
            }
            cases.push(Case {
                step,
                fault,
                cause,
                after,
                too_late,
                how,
                occurrence: match taken(step) {
                    Taken::Following(number) => number,
                    _ => 1,
                },
            });
        }
    }
    cases
}

/// One guest and the processes that it goes through.
#[derive(Default)]
struct Lane {
    guest: Option<Guest>,
    /// Processes that gave the guest away and do not know what became of it.
    silent: Vec<Running>,
    made: usize,
}

/// The guest, where it runs.
struct Guest {
    dir: TempDir,
    socket: String,
    process: Running,
    beats: Beats,
}

/// The number of a heartbeat. A guest that is moved within a line begins it here and ends it there.
fn beat(line: &str) -> Option<u64> {
    let whole = line.starts_with("heartbeat ") && line.contains(" ticks=");
    whole.then(|| field(line, "seq"))
}

/// Heartbeats of one guest, by all its processes.
#[derive(Default)]
struct Beats {
    seen: BTreeSet<u64>,
}

impl Beats {
    /// Takes the new lines of `process`; how many heartbeats were among them.
    fn take(&mut self, process: &mut Running) -> usize {
        let mut beats = 0;
        for line in process.lines_so_far() {
            if let Some(seq) = beat(&line) {
                assert!(self.seen.insert(seq), "it ran twice: {line}");
                beats += 1;
            } else if line.starts_with("check ") && line.contains(" written=") {
                assert_eq!(field(&line, "wrong"), 0, "{line}");
            }
            assert!(!line.starts_with("check wrong"), "{line}");
        }
        beats
    }

    /// Waits until the guest in `process` has gone on for some beats.
    fn await_in(&mut self, process: &mut Running) {
        let deadline = Instant::now() + PATIENCE;
        let mut beats = 0;
        while beats < 3 {
            beats += self.take(process);
            let late = Instant::now() >= deadline || process.is_over();
            assert!(!late, "the guest does not go on: {}", process.said());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Guest {
    fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("{name}.sock");
        let words = [
            "run",
            "--chaos",
            "--socket",
            &socket,
            "--memory",
            "16M",
            "--cmdline",
            GUEST,
        ];
        let process = Running::start(dir.path(), &words);
        wait_for(&dir.path().join(&socket));
        let mut guest = Self {
            dir,
            socket,
            process,
            beats: Beats::default(),
        };
        guest.beats.await_in(&mut guest.process);
        guest
    }

    fn receiver(dir: &Path, name: &str, inject: &[String]) -> (Running, String, String, String) {
        let socket = format!("{name}.sock");
        let mut words = vec!["--chaos", "--socket", &socket, "--patience", "60"];
        words.extend(WINDOW);
        words.extend(inject.iter().flat_map(|fault| ["--inject", fault]));
        let (process, to, token) = receive(dir, &format!("{name}.token"), &words);
        (process, socket, to, token)
    }
}

impl Lane {
    /// Has a guest, moves it with the fault, and judges what came of it.
    fn run(&mut self, case: &Case) {
        self.made += 1;
        let name = self.made.to_string();
        let mut guest = match self.guest.take() {
            Some(guest) => guest,
            None => Guest::start(&name),
        };
        let inject = case.injections(Side::Target);
        let at = format!("{name}t");
        let (mut target, socket, to, token) = Guest::receiver(guest.dir.path(), &at, &inject);
        let mut words = vec!["migrate", "--from", &guest.socket, "--json"];
        words.extend(WINDOW.iter().chain(case.how));
        words.extend(["--to", &to, "--token", &token]);
        let inject = case.injections(Side::Source);
        words.extend(inject.iter().flat_map(|fault| ["--inject", fault]));
        let moved = godwit(guest.dir.path(), &words);
        let code = moved.code.expect("`godwit migrate` is not killed");
        let text = &moved.stderr;

        let struck = format!("fault={}@{}={}", case.step, case.occurrence, case.fault);
        let side = match case.step.side() {
            Side::Source => &guest.process,
            Side::Target => &target,
        };
        await_said(side, &struck);
        truthful(code, &moved.stdout);

        if case.kills(Side::Source) {
            assert!(code != 0 || case.after, "success of a killed source");
            let unknown = i32::from(ErrorCode::Unconfirmed.exit_code());
            assert!(code == unknown || code == 0, "code {code}: {text}");
            self.judge_after_source_died(case, guest, target);
        } else if code == 0 {
            let heals = matches!(case.fault, Fault::Cut(Some(_)));
            assert!(case.after || case.moves() || heals, "moved in spite of it");
            let left = guest.process.end();
            assert_eq!(left.code, Some(0), "{}", left.stderr);
            // Nobody else has said any of it before.
            guest
                .beats
                .seen
                .extend(left.stdout.iter().filter_map(|line| beat(line)));
            if case.kills(Side::Target) {
                return;
            }
            guest.beats.await_in(&mut target);
            guest.process = target;
            guest.socket = socket;
            self.guest = Some(guest);
        } else if code == i32::from(ErrorCode::Unconfirmed.exit_code()) {
            assert!(case.after && !case.moves(), "given up: {text}");
            self.judge_unconfirmed(guest, target);
        } else {
            assert!(!case.moves(), "it should have moved: {text}");
            if case.fault == Fault::Cancel && case.cause.is_none() {
                assert_eq!(code, i32::from(ErrorCode::Cancelled.exit_code()), "{text}");
            }
            let never = code == i32::from(ErrorCode::NeverStarted.exit_code());
            // Its readiness may not have got through, or it needed pages to become ready.
            let unheard = case.step == Step::TargetTooLate || case.occurrence > 1;
            assert!(
                case.stays() || never || unheard,
                "code {code} after the handover: {text}"
            );
            guest.beats.await_in(&mut guest.process);
            if !case.kills(Side::Target) {
                assert!(!matches!(target.end().code, Some(0) | None));
            }
            guest.beats.await_in(&mut guest.process);
            self.retry(guest);
        }
    }

    /// The same guest is moved without a fault.
    fn retry(&mut self, mut guest: Guest) {
        let at = format!("{}r", self.made);
        let (mut target, socket, to, token) = Guest::receiver(guest.dir.path(), &at, &[]);
        let moved = godwit(
            guest.dir.path(),
            &[
                "migrate",
                "--from",
                &guest.socket,
                "--to",
                &to,
                "--token",
                &token,
            ],
        );
        assert_eq!(moved.code, Some(0), "the retry: {}", moved.stderr);
        // What it said before the end is counted too: nobody says the same again.
        guest.beats.take(&mut guest.process);
        guest.beats.await_in(&mut target);
        guest.process = target;
        guest.socket = socket;
        self.guest = Some(guest);
    }

    /// The guest is at the target, or it is lost and nobody pretends otherwise.
    fn judge_after_source_died(&mut self, case: &Case, mut guest: Guest, mut target: Running) {
        assert_eq!(guest.process.end().code, None, "killed");
        let deadline = Instant::now() + PATIENCE;
        let mut beats = 0;
        while beats < 3 && !target.is_over() {
            assert!(Instant::now() < deadline, "neither runs nor ends");
            beats += guest.beats.take(&mut target);
            thread::sleep(Duration::from_millis(5));
        }
        if beats == 0 {
            assert!(!matches!(target.end().code, Some(0) | None));
        } else {
            assert!(case.after, "nobody gave the guest up");
        }
    }

    /// The source gave the guest up: it never runs there again, whether or not it runs at the target.
    fn judge_unconfirmed(&mut self, mut guest: Guest, mut target: Running) {
        guest.beats.take(&mut guest.process);
        let deadline = Instant::now() + PATIENCE;
        let mut beats = 0;
        while beats < 10 && !target.is_over() {
            assert!(Instant::now() < deadline, "neither runs nor ends");
            beats += guest.beats.take(&mut target);
            thread::sleep(Duration::from_millis(5));
        }
        if target.is_over() {
            assert_ne!(target.end().code, Some(0));
        }
        let more = guest.beats.take(&mut guest.process);
        assert_eq!(more, 0, "it runs at the source, which gave it up");
        assert!(!guest.process.is_over(), "the source keeps the memory");
        let resumed = godwit(
            guest.dir.path(),
            &["vmm-ctl", "--socket", &guest.socket, "resume"],
        );
        assert_eq!(
            resumed.code,
            Some(i32::from(ErrorCode::WrongState.exit_code())),
            "{}",
            resumed.stderr
        );
        self.silent.push(guest.process);
        for mut process in self.silent.drain(..) {
            assert_eq!(guest.beats.take(&mut process), 0);
        }
    }
}

/// Waits until it is read that the process wrote `text`.
fn await_said(process: &Running, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !process.said().contains(text) {
        assert!(Instant::now() < deadline, "no {text}: {}", process.said());
        thread::sleep(Duration::from_millis(5));
    }
}

/// The receipt says what the exit code says.
fn truthful(code: i32, stdout: &[String]) {
    let Some(receipt) = stdout.first() else {
        assert_ne!(code, 0, "no success without a receipt");
        return;
    };
    let receipt: serde_json::Value = serde_json::from_str(receipt).unwrap();
    let outcome = &receipt["outcome"];
    let first = outcome["codes"][0].as_i64().unwrap_or(0);
    assert_eq!(first, i64::from(code), "{outcome}");
    let result = outcome["result"].as_str().unwrap();
    assert_eq!(result == "completed", code == 0, "{outcome}");
    let unconfirmed = i32::from(ErrorCode::Unconfirmed.exit_code());
    assert_eq!(result == "unconfirmed", code == unconfirmed, "{outcome}");
}

/// Runs `cases` on several lanes; the slowest first.
fn run(mut cases: Vec<Case>) {
    cases.sort_by_key(|case| {
        let waits = matches!(case.fault, Fault::Cut(_) | Fault::Kill);
        (!(waits && case.after), !waits)
    });
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let mut lane = Lane::default();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = std::panic::AssertUnwindSafe(|| lane.run(case));
                    if let Err(panic) = std::panic::catch_unwind(run) {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| Some((*panic.downcast_ref::<&str>()?).into()));
                        let name = format!("{case:?}");
                        let text = text.unwrap_or_default();
                        failures.lock().unwrap().insert(name, text);
                        lane = Lane::default();
                    }
                }
            });
        }
    });
    println!("{} cases in {:.1?}", cases.len(), begin.elapsed());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn whatever_fails_at_whatever_step_one_guest_runs_and_nobody_is_told_otherwise() {
    if !has_kvm() {
        return;
    }
    run(cases(true, &["error", DELAY, "cut", "kill", "cancel"]));
}

/// Whether memory can follow a guest here. Says so loudly when not.
fn memory_can_follow() -> bool {
    let can = godwit_vmm::memory::post_copy::check();
    if let Err(error) = &can {
        say_skipped(&format!("memory cannot follow a guest: {error}"));
    }
    can.is_ok()
}

#[test]
fn memory_that_is_compared_or_follows_survives_faults_or_is_told_as_lost() {
    if has_kvm() && memory_can_follow() {
        run(cases(false, &["error", "cut", "kill"]));
    }
}

#[test]
#[ignore = "minutes: the long form of the other two"]
fn long_form_of_every_fault_at_every_step() {
    if !has_kvm() || !memory_can_follow() {
        return;
    }
    let rarer = ["disk-full", "out-of-memory", "cut:1s", "cut:4s"];
    run(cases(true, &rarer));
    run(cases(false, &rarer));
    run(cases(false, &[DELAY, "cancel"]));
}
