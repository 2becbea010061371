//! Sources and targets made by hand, to say what no godwit says.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_migration::driver;
use godwit_migration::transport::{
    Dialer, Framed, Invitation, Receiver, SourceLink, TargetLink, TransportError, Tuning,
};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::{FromSource, FromTarget, VERSIONS};
use tokio::runtime::{Builder, Runtime};

use crate::support::PATIENCE;

/// What carries peers made by hand.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn tuning() -> Tuning {
    Tuning {
        // To be able to send too much.
        max_frame_bytes: 64 << 20,
        // What is not read soon holds the other side up.
        stream_window_bytes: 64 << 10,
        ..Tuning::default()
    }
}

/// A target that waits for a source.
pub(crate) struct FakeTarget {
    receiver: Receiver,
}

impl FakeTarget {
    pub(crate) fn listen(runtime: &Runtime) -> Self {
        let _inside = runtime.enter();
        let any = "127.0.0.1:0".parse().unwrap();
        let receiver = Receiver::bind(any, Invitation::default(), tuning(), VERSIONS).unwrap();
        Self { receiver }
    }

    pub(crate) fn to(&self) -> String {
        self.receiver.address().unwrap().to_string()
    }

    pub(crate) fn token(&self) -> String {
        self.receiver.token().to_text()
    }

    /// A source that has come, before anything was said.
    pub(crate) async fn accept(&mut self) -> TargetLink {
        self.receiver.accept(PATIENCE).await.unwrap()
    }
}

/// A link to the target that listens at `to`, before anything was said.
pub(crate) async fn dial(to: &str, token: &str) -> Result<SourceLink, TransportError> {
    let to: SocketAddr = to.parse().unwrap();
    let dialer = Dialer::new(token.parse().unwrap(), tuning(), VERSIONS).unwrap();
    dialer.open(to).await
}

/// Settles on a version, as a decent peer does.
pub(crate) async fn greet(control: &mut Framed) {
    driver::settle(control).await.unwrap();
}

/// Says it as a source. A peer that has had enough does not listen.
pub(crate) async fn say(control: &mut Framed, message: &FromSource) -> bool {
    let payload = message.to_payload(1).unwrap();
    send(control, FrameKind::FromSource, &payload).await
}

/// Says it as a target.
pub(crate) async fn answer(control: &mut Framed, message: &FromTarget) -> bool {
    let payload = message.to_payload(1).unwrap();
    send(control, FrameKind::FromTarget, &payload).await
}

/// Sends any bytes as any kind of message.
pub(crate) async fn send(control: &mut Framed, kind: FrameKind, payload: &[u8]) -> bool {
    control.sender.send(kind, 1, payload).await.is_ok()
}

/// What the source says next; `None` when it has gone.
pub(crate) async fn hear_source(control: &mut Framed) -> Option<FromSource> {
    let frame = control.receiver.receive(PATIENCE).await.ok()?;
    Some(FromSource::from_frame(&frame).unwrap())
}

/// What the target says next; `None` when it has gone.
pub(crate) async fn hear_target(control: &mut Framed) -> Option<FromTarget> {
    let frame = control.receiver.receive(PATIENCE).await.ok()?;
    Some(FromTarget::from_frame(&frame).unwrap())
}

/// Reads until the peer has gone, so that whatever it says cannot hold it up.
pub(crate) async fn hear_out(control: &mut Framed) {
    while control.receiver.receive(PATIENCE).await.is_ok() {}
}

/// Takes and drops all pages.
pub(crate) fn drain_bulk(link: &mut TargetLink) {
    for mut bulk in std::mem::take(&mut link.bulk) {
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read) = bulk.read(&mut buffer).await {
                if read == 0 {
                    return;
                }
            }
        });
    }
}

/// The most memory that a process has had, bytes; `None` when it has ended.
pub(crate) fn peak_bytes(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib = line.trim().trim_end_matches(" kB");
    Some(kib.parse::<u64>().unwrap() << 10)
}

/// Looks at [`peak_bytes`] until the process has ended.
pub(crate) fn watch_peak(pid: i32) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = peak_bytes(pid) {
            peak = now;
            thread::sleep(Duration::from_millis(5));
        }
        peak
    })
}

/// Not for ever, whatever the peer does.
pub(crate) async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, what)
        .await
        .expect("it ends in time")
}
