//! The little of Ethernet, ARP, IPv4, ICMP and UDP that an echo needs
//! (RFC 826, 791, 792, 768). Frames are edited in place.

/// Ethernet header.
pub(crate) const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const UDP: usize = IPV4 + 8;
/// Bytes before a UDP payload.
pub(crate) const UDP_HEADERS: usize = UDP;
const ARP: usize = ETHERNET + 28;
/// Shortest frame without its checksum.
const SHORTEST: usize = 60;

pub(crate) type Mac = [u8; 6];
pub(crate) type Ip = [u8; 4];
const BROADCAST: Mac = [0xff; 6];

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) mac: Mac,
    pub(crate) ip: Ip,
    /// UDP port that echoes.
    pub(crate) udp: u16,
}

/// What a frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The frame is now the answer to an ARP request.
    ArpRequest,
    /// Somebody said where an address is.
    ArpReply { ip: Ip, mac: Mac },
    /// The frame is now the answer to a ping.
    Ping,
    /// The frame is now the echo of a datagram.
    Echo,
    /// A datagram for us on another port.
    Datagram,
    /// Nothing for us.
    Other,
}

impl Kind {
    /// The frame is to be sent back.
    pub(crate) fn answers(self) -> bool {
        matches!(self, Self::ArpRequest | Self::Ping | Self::Echo)
    }
}

impl Host {
    /// Judges a frame and, where it asks for an answer, makes it that.
    pub(crate) fn receive(&self, frame: &mut [u8]) -> Kind {
        match frame.get(12..14) {
            Some([8, 6]) if frame.len() >= ARP => self.receive_arp(frame),
            Some([8, 0]) if frame.len() >= IPV4 => self.receive_ip(frame),
            _ => Kind::Other,
        }
    }

    fn receive_arp(&self, frame: &mut [u8]) -> Kind {
        let arp = &mut frame[ETHERNET..ARP];
        if arp[..6] != [0, 1, 8, 0, 6, 4] {
            return Kind::Other;
        }
        let (mac, ip): (Mac, Ip) = (part(arp, 8), part(arp, 14));
        let target: Ip = part(arp, 24);
        match arp[6..8] {
            [0, 1] if target == self.ip && ip != self.ip => {
                arp[7] = 2;
                arp[8..14].copy_from_slice(&self.mac);
                arp[14..18].copy_from_slice(&self.ip);
                arp[18..24].copy_from_slice(&mac);
                arp[24..28].copy_from_slice(&ip);
                self.address(frame, mac);
                Kind::ArpRequest
            }
            [0, 2] => Kind::ArpReply { ip, mac },
            _ => Kind::Other,
        }
    }

    fn receive_ip(&self, frame: &mut [u8]) -> Kind {
        let total = usize::from(be(frame, ETHERNET + 2));
        // No options, no fragments, not longer than the frame.
        let plain = frame[ETHERNET] == 0x45 && be(frame, ETHERNET + 6) & 0x3fff == 0;
        let to: Ip = part(frame, ETHERNET + 16);
        if !plain || total < 28 || ETHERNET + total > frame.len() || to != self.ip {
            return Kind::Other;
        }
        match frame[ETHERNET + 9] {
            1 if frame[IPV4] == 8 && frame[IPV4 + 1] == 0 => {
                frame[IPV4] = 0;
                frame[IPV4 + 2..IPV4 + 4].fill(0);
                let sum = checksum(&frame[IPV4..ETHERNET + total], 0);
                frame[IPV4 + 2..IPV4 + 4].copy_from_slice(&sum.to_be_bytes());
                self.turn(frame);
                Kind::Ping
            }
            17 if be(frame, IPV4 + 2) == self.udp => {
                let (from, to): ([u8; 2], [u8; 2]) = (part(frame, IPV4), part(frame, IPV4 + 2));
                frame[IPV4..IPV4 + 2].copy_from_slice(&to);
                frame[IPV4 + 2..IPV4 + 4].copy_from_slice(&from);
                // The checksum of a datagram whose two ends change places
                // stays, but a sender may have left it half done: go without.
                frame[IPV4 + 6..IPV4 + 8].fill(0);
                self.turn(frame);
                Kind::Echo
            }
            17 => Kind::Datagram,
            _ => Kind::Other,
        }
    }

    /// Sends an IPv4 frame back to where it came from.
    fn turn(&self, frame: &mut [u8]) {
        let (mac, ip): (Mac, Ip) = (part(frame, 6), part(frame, ETHERNET + 12));
        self.address(frame, mac);
        frame[ETHERNET + 8] = 64;
        frame[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&self.ip);
        frame[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&ip);
        seal(frame);
    }

    fn address(&self, frame: &mut [u8], to: Mac) {
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&self.mac);
    }

    /// Writes an ARP request for `ip`; for our own address that is the
    /// announcement of where we are. Returns its length.
    pub(crate) fn request(&self, frame: &mut [u8; SHORTEST], ip: Ip) -> usize {
        frame.fill(0);
        self.address(frame, BROADCAST);
        frame[12..14].copy_from_slice(&[8, 6]);
        let arp = &mut frame[ETHERNET..ARP];
        arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        arp[8..14].copy_from_slice(&self.mac);
        arp[14..18].copy_from_slice(&self.ip);
        arp[24..28].copy_from_slice(&ip);
        SHORTEST
    }

    /// Writes a datagram whose `payload` bytes are already in place behind
    /// [`UDP_HEADERS`]. Returns the frame's length.
    pub(crate) fn datagram(&self, frame: &mut [u8], to: (Mac, Ip, u16), payload: usize) -> usize {
        let (mac, ip, port) = to;
        self.address(frame, mac);
        frame[12..14].copy_from_slice(&[8, 0]);
        let total = (20 + 8 + payload) as u16;
        frame[ETHERNET..IPV4].fill(0);
        frame[ETHERNET] = 0x45;
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
        frame[ETHERNET + 8] = 64;
        frame[ETHERNET + 9] = 17;
        frame[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&self.ip);
        frame[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&ip);
        seal(frame);
        frame[IPV4..IPV4 + 2].copy_from_slice(&self.udp.to_be_bytes());
        frame[IPV4 + 2..IPV4 + 4].copy_from_slice(&port.to_be_bytes());
        frame[IPV4 + 4..IPV4 + 6].copy_from_slice(&(total - 20).to_be_bytes());
        frame[IPV4 + 6..IPV4 + 8].fill(0);
        UDP + payload
    }
}

/// Writes the IPv4 header's checksum.
fn seal(frame: &mut [u8]) {
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = checksum(&frame[ETHERNET..IPV4], 0);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn be(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    const ME: Host = Host {
        mac: [2, 0, 0, 0, 0, 1],
        ip: [10, 0, 0, 2],
        udp: 7,
    };
    const PEER: Host = Host {
        mac: [2, 0, 0, 0, 0, 9],
        ip: [10, 0, 0, 1],
        udp: 5_000,
    };

    fn ping(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; IPV4 + 8 + payload.len()];
        PEER.datagram(&mut frame, (ME.mac, ME.ip, 0), payload.len());
        frame[ETHERNET + 9] = 1;
        seal(&mut frame);
        frame[IPV4..IPV4 + 8].copy_from_slice(&[8, 0, 0, 0, 0, 42, 0, 1]);
        frame[IPV4 + 8..].copy_from_slice(payload);
        let sum = checksum(&frame[IPV4..], 0);
        frame[IPV4 + 2..IPV4 + 4].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0),
            !0xddf2
        );
        assert_eq!(checksum(&[1], 0), !0x0100);
    }

    #[test]
    fn an_arp_request_is_answered_and_the_asker_learns_our_address() {
        let mut frame = [0; SHORTEST];
        PEER.request(&mut frame, ME.ip);
        assert_eq!(ME.receive(&mut frame), Kind::ArpRequest);
        assert_eq!(frame[..6], PEER.mac);
        assert_eq!(
            PEER.receive(&mut frame),
            Kind::ArpReply {
                ip: ME.ip,
                mac: ME.mac
            }
        );
        PEER.request(&mut frame, [10, 0, 0, 77]);
        assert_eq!(ME.receive(&mut frame), Kind::Other);
    }

    #[test]
    fn our_own_announcement_is_not_answered() {
        let mut frame = [0; SHORTEST];
        ME.request(&mut frame, ME.ip);
        assert_eq!(ME.receive(&mut frame), Kind::Other);
    }

    #[test]
    fn a_ping_is_answered_with_the_same_payload_and_right_checksums() {
        for payload in [&b"abcdefgh"[..], b"odd"] {
            let mut frame = ping(payload);
            assert_eq!(ME.receive(&mut frame), Kind::Ping);
            assert_eq!((frame[IPV4], &frame[IPV4 + 8..]), (0, payload));
            assert_eq!(checksum(&frame[ETHERNET..IPV4], 0), 0);
            assert_eq!(checksum(&frame[IPV4..], 0), 0);
            assert_eq!(part::<4>(&frame, ETHERNET + 16), PEER.ip);
            assert_eq!(part::<6>(&frame, 0), PEER.mac);
        }
    }

    #[test]
    fn a_datagram_to_the_echo_port_comes_back_and_others_are_counted() {
        let mut frame = [7u8; UDP + 5];
        PEER.datagram(&mut frame, (ME.mac, ME.ip, 7), 5);
        let mut other = frame;
        assert_eq!(ME.receive(&mut frame), Kind::Echo);
        assert_eq!((be(&frame, IPV4), be(&frame, IPV4 + 2)), (7, 5_000));
        assert_eq!(frame[UDP..], [7; 5]);
        assert_eq!(checksum(&frame[ETHERNET..IPV4], 0), 0);
        PEER.datagram(&mut other, (ME.mac, ME.ip, 8), 5);
        assert_eq!(ME.receive(&mut other), Kind::Datagram);
    }

    #[test]
    fn fragments_options_wrong_lengths_and_other_hosts_are_left_alone() {
        let good = ping(b"abcdefgh");
        let spoilt = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            ME.receive(&mut frame)
        };
        assert_eq!(spoilt(ETHERNET, 0x46), Kind::Other);
        assert_eq!(spoilt(ETHERNET + 6, 0x20), Kind::Other);
        assert_eq!(spoilt(ETHERNET + 3, 0xff), Kind::Other);
        assert_eq!(spoilt(ETHERNET + 3, 20), Kind::Other);
        assert_eq!(spoilt(ETHERNET + 19, 99), Kind::Other);
        assert_eq!(spoilt(12, 0x86), Kind::Other);
    }

    #[test]
    fn no_frame_however_short_or_random_breaks_it() {
        let mut random = Random::new(1);
        for len in 0..200 {
            for _ in 0..20 {
                let mut frame: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                if len > 13 && random.next() & 3 != 0 {
                    frame[12..14].copy_from_slice(if random.next() & 1 == 0 {
                        &[8, 0]
                    } else {
                        &[8, 6]
                    });
                }
                if len > 33 && random.next() & 3 != 0 {
                    frame[ETHERNET] = 0x45;
                    frame[ETHERNET + 2] = 0;
                    frame[ETHERNET + 6..ETHERNET + 8].fill(0);
                    frame[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&ME.ip);
                }
                ME.receive(&mut frame);
            }
        }
    }
}
