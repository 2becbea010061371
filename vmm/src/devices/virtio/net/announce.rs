//! Telling the network where a guest is now, after it came to another host.
//!
//! Two ways at once, for neither reaches everybody:
//!
//! - The card itself sends RARP requests with the guest's address as their source. Bridges and
//!   switches learn from any frame on which port an address is; this one asks nothing of the guest.
//! - The driver is asked to announce itself (virtio 1.2, 5.1.6.5.4). It knows the guest's IP
//!   addresses, VLANs and bonds, and sends gratuitous ARP and neighbour advertisements for them.
//!
//! Frames get lost, and ports of a bridge may take a moment to forward, so it is done in rounds with
//! growing gaps. Nothing is sent in the name of a guest that does not run: by then it may be on its
//! way to yet another host, where its network would be led astray.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::config::HEADER_BYTES;
use super::shared::NetHandle;

/// The shortest Ethernet frame without its checksum, bytes.
const FRAME_BYTES: usize = 60;
/// What is between the rounds, of which there is one more. The figures are those QEMU uses
/// (`announce-initial`, `-step`, `-rounds`), to which networks are used.
const GAPS: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(250),
    Duration::from_millis(350),
];

/// A RARP request of `mac` for itself (RFC 903), behind an empty virtio header.
pub(super) fn rarp_request(mac: [u8; 6]) -> [u8; HEADER_BYTES + FRAME_BYTES] {
    let mut packet = [0; HEADER_BYTES + FRAME_BYTES];
    let (ethernet, rarp) = packet[HEADER_BYTES..].split_at_mut(14);
    ethernet[..6].fill(0xff);
    ethernet[6..12].copy_from_slice(&mac);
    ethernet[12..].copy_from_slice(&[0x80, 0x35]);
    // Ethernet, IPv4, lengths of their addresses, "request reverse".
    rarp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 3]);
    // Sender and target are the same; neither has an IPv4 address yet.
    rarp[8..14].copy_from_slice(&mac);
    rarp[18..24].copy_from_slice(&mac);
    packet
}

/// Announces cards in rounds, the first at once. Dropping it ends that.
#[derive(Debug)]
pub struct Announcer {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Announcer {
    /// Announces `cards` once, and then on a thread of its own for less than a second.
    ///
    /// # Errors
    /// When there is no thread to be had. The first round was made.
    pub fn start(cards: Vec<NetHandle>) -> io::Result<Self> {
        cards.iter().for_each(NetHandle::announce);
        let (stop, stopped) = channel();
        let rounds = move || {
            for gap in GAPS {
                if stopped.recv_timeout(gap) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                cards.iter().for_each(NetHandle::announce);
            }
        };
        let thread = std::thread::Builder::new()
            .name("announce".into())
            .spawn(rounds)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that announces network cards panicked");
        }
    }
}
