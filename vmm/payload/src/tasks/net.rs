//! Answers ARP, ping and UDP echo on a network device (virtio 1.2, 5.1),
//! announces itself, and on request sends as fast as it can.

use super::Site;
use crate::cpu::CpuBlock;
use crate::line;
use crate::logic::packet::{Host, Ip, Kind, Mac, UDP_HEADERS};
use crate::logic::span::PAGE;
use crate::logic::workload::{Net, NetBench};
use crate::schedule::Next;
use crate::virtio::{Device, Queue, Refused, take};

const KIND: u16 = 1;
const F_MAC: u64 = 1 << 5;
const F_STATUS: u64 = 1 << 16;
const F_CTRL_VQ: u64 = 1 << 17;
const F_GUEST_ANNOUNCE: u64 = 1 << 21;
const CONFIG_STATUS: u64 = 6;
const STATUS_ANNOUNCE: u16 = 2;
/// VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK.
const ANNOUNCE_ACK: [u8; 2] = [3, 0];

const BUFFERS: u16 = 128;
const BYTES: u64 = 2048;
/// `struct virtio_net_hdr_v1`, all zero as we use it.
const HEADER: u64 = 12;

const MS: u64 = 1_000_000;
const ASK_AGAIN: u64 = 100 * MS;
const GIVE_UP: u64 = 3_000 * MS;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    received: u64,
    sent: u64,
    arp: u64,
    ping: u64,
    udp: u64,
    datagrams: u64,
    dropped: u64,
    announced: u64,
    errors: u64,
}

enum Bench {
    Resolve {
        since: u64,
        ask: u64,
    },
    Send {
        mac: Mac,
        begin: u64,
        sent: u64,
        received: u64,
    },
}

pub struct NetTask {
    device: Device,
    receive: Queue,
    transmit: Queue,
    control: Option<Queue>,
    memory: u64,
    sending: u64,
    acknowledge: u64,
    host: Host,
    options: Net,
    config_irqs: u64,
    counts: Counts,
    reported: Counts,
    bench: Option<(NetBench, Bench)>,
    resolved: Option<(Ip, Mac)>,
    every: u64,
    report: u64,
}

impl NetTask {
    pub fn new(site: &mut Site<'_>, options: Net, every: u64) -> Result<Self, Refused> {
        let mut device = Device::open(&site.pci, KIND, options.device)?;
        let features = device.negotiate(F_MAC | F_STATUS | F_CTRL_VQ | F_GUEST_ANNOUNCE)?;
        device.route(site.cpu)?;
        let receive = device.queue(site.free, 0, 1, BUFFERS, options.poll)?;
        // What was sent is looked for when there is something to send.
        let transmit = device.queue(site.free, 1, 1, BUFFERS, true)?;
        let control = match features & F_CTRL_VQ {
            0 => None,
            _ => Some(device.queue(site.free, 2, 2, 1, true)?),
        };
        let area = u64::from(BUFFERS) * BYTES / PAGE;
        let (memory, sending) = (take(site.free, area)?, take(site.free, area)?);
        let acknowledge = take(site.free, 1)?;
        let mut mac = [2, 0, 0, 0, 0, 1];
        if features & F_MAC != 0 {
            for (offset, byte) in (0u64..).zip(&mut mac) {
                *byte = device.config8(offset);
            }
        }
        device.start();
        let mut task = Self {
            config_irqs: site.cpu.taken(device.config_vector),
            device,
            receive,
            transmit,
            control,
            memory,
            sending,
            acknowledge,
            host: Host {
                mac,
                ip: options.ip,
                udp: options.udp,
            },
            options,
            counts: Counts::default(),
            reported: Counts::default(),
            bench: options
                .bench
                .map(|bench| (bench, Bench::Resolve { since: 0, ask: 0 })),
            resolved: None,
            every,
            report: 0,
        };
        while let Some(slot) = task.receive.take() {
            task.refill(slot);
        }
        task.receive.kick();
        task.ask(options.ip);
        task.counts.announced += 1;
        let [a, b, c, d] = options.ip;
        let [m0, m1, m2, m3, m4, m5] = mac;
        line!(
            site.me,
            "net ip={a}.{b}.{c}.{d} mac={m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x} features={features:#x}"
        );
        Ok(task)
    }

    pub fn ends_by_itself(&self) -> bool {
        self.options.bench.is_some()
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        self.reap();
        self.receive_all();
        let irqs = cpu.taken(self.device.config_vector);
        if irqs != self.config_irqs {
            self.config_irqs = irqs;
            self.announce_if_asked();
        }
        let bench = self.bench.take();
        let wish = match bench {
            None => Next::Interrupt,
            Some((options, bench)) => self.run_bench(cpu, now, options, bench),
        };
        if wish == Next::Done {
            return Next::Done;
        }
        let news = self.counts != self.reported;
        if news && now >= self.report && self.bench.is_none() {
            self.say(cpu, now);
        }
        match wish {
            _ if self.options.poll => Next::Busy,
            Next::Interrupt if self.counts != self.reported => Next::At(self.report),
            wish => wish,
        }
    }

    fn reap(&mut self) {
        while let Some(back) = self.transmit.pop() {
            self.counts.errors += u64::from(back.is_err());
        }
    }

    fn refill(&mut self, slot: u16) {
        let buffer = self.memory + u64::from(slot) * BYTES;
        self.receive.offer(slot, &[(buffer, BYTES as u32, true)]);
    }

    fn receive_all(&mut self) {
        let mut some = false;
        // Bounded: a flood must not starve the processor's other tasks.
        for _ in 0..BUFFERS {
            let Some(back) = self.receive.pop() else {
                break;
            };
            some = true;
            let Ok(used) = back else {
                self.counts.errors += 1;
                continue;
            };
            let len = u64::from(used.len).clamp(HEADER, BYTES) - HEADER;
            let at = self.memory + u64::from(used.slot) * BYTES + HEADER;
            // SAFETY: within the slot's buffer; the device is done with it.
            let frame = unsafe { core::slice::from_raw_parts_mut(at as *mut u8, len as usize) };
            self.counts.received += 1;
            let kind = self.host.receive(frame);
            match kind {
                Kind::ArpRequest => self.counts.arp += 1,
                Kind::Ping => self.counts.ping += 1,
                Kind::Echo => self.counts.udp += 1,
                Kind::Datagram => self.counts.datagrams += 1,
                Kind::ArpReply { ip, mac } => self.resolved = Some((ip, mac)),
                Kind::Other => {}
            }
            if kind.answers() {
                self.send(|buffer| {
                    buffer[..frame.len()].copy_from_slice(frame);
                    frame.len()
                });
                self.transmit.kick();
            }
            if let Some(slot) = self.receive.take() {
                self.refill(slot);
            }
        }
        if some {
            self.receive.kick();
        }
    }

    /// Sends the frame that `write` puts into a buffer; false when all are in
    /// use. The caller kicks.
    fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(slot) = self.transmit.take() else {
            self.counts.dropped += 1;
            return false;
        };
        let at = self.sending + u64::from(slot) * BYTES;
        // SAFETY: the slot's buffer, which the device does not hold. Its header
        // was zero from the start and nobody writes it.
        let buffer = unsafe {
            core::slice::from_raw_parts_mut((at + HEADER) as *mut u8, (BYTES - HEADER) as usize)
        };
        let len = write(buffer) as u32;
        self.transmit
            .offer(slot, &[(at, HEADER as u32 + len, false)]);
        self.counts.sent += 1;
        true
    }

    /// Asks who has `ip`; for our own that announces us.
    fn ask(&mut self, ip: Ip) {
        let host = self.host;
        self.send(|buffer| {
            let mut frame = [0; 60];
            let len = host.request(&mut frame, ip);
            buffer[..len].copy_from_slice(&frame[..len]);
            len
        });
        self.transmit.kick();
    }

    /// After a move the host asks for an announcement and waits for the
    /// acknowledgement (5.1.6.5.4).
    fn announce_if_asked(&mut self) {
        if self.device.config16(CONFIG_STATUS) & STATUS_ANNOUNCE == 0 {
            return;
        }
        self.ask(self.host.ip);
        self.counts.announced += 1;
        let Some(control) = &mut self.control else {
            return;
        };
        while control.pop().is_some() {}
        let Some(slot) = control.take() else { return };
        // SAFETY: our own page; the device has given its request back.
        unsafe { (self.acknowledge as *mut [u8; 2]).write_volatile(ANNOUNCE_ACK) };
        control.offer(
            slot,
            &[
                (self.acknowledge, 2, false),
                (self.acknowledge + 16, 1, true),
            ],
        );
        control.kick();
    }

    fn run_bench(&mut self, cpu: &CpuBlock, now: u64, options: NetBench, bench: Bench) -> Next {
        match bench {
            Bench::Resolve { since: 0, .. } => {
                self.bench = Some((
                    options,
                    Bench::Resolve {
                        since: now,
                        ask: now,
                    },
                ));
                Next::Busy
            }
            Bench::Resolve { since, mut ask } => {
                if let Some((ip, mac)) = self.resolved
                    && ip == options.to
                {
                    let received = self.counts.datagrams + self.counts.udp;
                    self.bench = Some((
                        options,
                        Bench::Send {
                            mac,
                            begin: now,
                            sent: 0,
                            received,
                        },
                    ));
                    return Next::Busy;
                }
                if now - since > GIVE_UP {
                    line!(
                        cpu,
                        "error net-bench={} reason=no-arp-reply",
                        self.options.device
                    );
                    return Next::Done;
                }
                if now >= ask {
                    self.ask(options.to);
                    ask = now + ASK_AGAIN;
                }
                self.bench = Some((options, Bench::Resolve { since, ask }));
                Next::At(ask)
            }
            Bench::Send {
                mac,
                begin,
                mut sent,
                received,
            } => {
                if now - begin >= options.duration * MS {
                    let received = self.counts.datagrams + self.counts.udp - received;
                    say_bench(cpu, &options, now - begin, sent, received);
                    return Next::Done;
                }
                sent += self.flood(mac, &options, sent);
                self.bench = Some((
                    options,
                    Bench::Send {
                        mac,
                        begin,
                        sent,
                        received,
                    },
                ));
                Next::Busy
            }
        }
    }

    /// Fills every free buffer; returns how many.
    fn flood(&mut self, mac: Mac, options: &NetBench, first: u64) -> u64 {
        let host = self.host;
        let (to, size) = ((mac, options.to, options.port), usize::from(options.size));
        let mut count = 0;
        while let Some(slot) = self.transmit.take() {
            let at = self.sending + u64::from(slot) * BYTES;
            // SAFETY: as in `send`.
            let buffer = unsafe {
                core::slice::from_raw_parts_mut((at + HEADER) as *mut u8, (BYTES - HEADER) as usize)
            };
            buffer[UDP_HEADERS..UDP_HEADERS + 8].copy_from_slice(&(first + count).to_be_bytes());
            let len = host.datagram(buffer, to, size) as u32;
            self.transmit
                .offer(slot, &[(at, HEADER as u32 + len, false)]);
            count += 1;
        }
        if count > 0 {
            self.counts.sent += count;
            self.transmit.kick();
        }
        count
    }

    fn say(&mut self, cpu: &CpuBlock, now: u64) {
        self.reported = self.counts;
        self.report = now + self.every;
        let Counts {
            received,
            sent,
            arp,
            ping,
            udp,
            datagrams,
            dropped,
            announced,
            errors,
        } = self.counts;
        line!(
            cpu,
            "net received={received} sent={sent} arp={arp} ping={ping} udp={udp} datagrams={datagrams} \
             dropped={dropped} announced={announced} errors={errors} time_ns={now}"
        );
    }
}

fn say_bench(cpu: &CpuBlock, options: &NetBench, time: u64, sent: u64, received: u64) {
    let per_second = |count: u64| u128::from(count) * 1_000_000_000 / u128::from(time.max(1));
    let bits = u128::from(options.size) * 8;
    line!(
        cpu,
        "net-bench size={} sent={sent} pps={} mbit_s={} received={received} received_pps={} duration_ns={time}",
        options.size,
        per_second(sent),
        per_second(sent) * bits / 1_000_000,
        per_second(received)
    );
}
