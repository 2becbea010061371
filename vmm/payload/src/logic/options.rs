//! The command line: what the guest is asked to do. The grammar is described
//! in the payload's README. An option that is not understood is reported and
//! left out; the rest stands.

use super::fill::Content;
use super::pattern::Order;

/// Most workloads one command line starts.
pub(crate) const MAX_WORKLOADS: usize = 32;

/// How the guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Poweroff,
    Reset,
    Halt,
    TripleFault,
    Hang,
    /// Writes to an address where nothing is, then powers off.
    BadMmio(u64),
    /// Executes at an address where nothing is.
    KvmError(u64),
    /// Faults at CPL3 on an unmapped address.
    Fault,
}

/// An address in the gap below 4 GiB that no machine known to us uses.
pub(crate) const NOWHERE: u64 = 0xfd00_0000;

/// Which processor runs a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Dealt out in turn, beginning with the second processor.
    Turn,
    One(u32),
    /// One worker on each, the work divided.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dirty {
    pub(crate) place: Place,
    /// Bytes; 0 for all free memory.
    pub(crate) size: u64,
    /// First address; none takes free memory in turn.
    pub(crate) at: Option<u64>,
    /// Pages per second over all workers; 0 for as fast as possible.
    pub(crate) rate: u64,
    pub(crate) order: Order,
    pub(crate) content: Content,
    /// Touch each page once before the rate applies.
    pub(crate) fill: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) place: Place,
    /// Bytes; 0 for all free memory.
    pub(crate) size: u64,
    /// Pages rewritten per second over all workers; 0 as fast as possible.
    pub(crate) rate: u64,
    /// Pages verified per second over all workers; 0 as fast as possible.
    pub(crate) verify: u64,
    /// Share of random words in a page.
    pub(crate) entropy: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blk {
    pub(crate) place: Place,
    /// The how-manieth block device.
    pub(crate) device: u32,
    /// Read what the disk holds, report, and stop.
    pub(crate) verify_only: bool,
    /// Bytes per block, a multiple of 512.
    pub(crate) block: u32,
    /// Bytes of the disk in use; 0 for all of it, bounded by `MAX_BLOCKS`.
    pub(crate) size: u64,
    /// Writes per second; 0 as fast as possible.
    pub(crate) rate: u64,
    /// Flush after so many writes; 0 never.
    pub(crate) flush: u64,
    /// Ask the device for no interrupts and look instead.
    pub(crate) poll: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlkBench {
    pub(crate) place: Place,
    pub(crate) device: u32,
    pub(crate) write: bool,
    pub(crate) random: bool,
    pub(crate) block: u32,
    pub(crate) depth: u16,
    /// Milliseconds.
    pub(crate) duration: u64,
    /// Bytes of the disk in use; 0 for all of it.
    pub(crate) size: u64,
    pub(crate) poll: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Net {
    pub(crate) place: Place,
    pub(crate) device: u32,
    pub(crate) ip: [u8; 4],
    pub(crate) prefix: u8,
    /// UDP port that echoes.
    pub(crate) udp: u16,
    pub(crate) poll: bool,
    /// Send as fast as possible to this address.
    pub(crate) bench: Option<NetBench>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetBench {
    pub(crate) to: [u8; 4],
    pub(crate) port: u16,
    /// UDP payload bytes per frame.
    pub(crate) size: u16,
    /// Milliseconds.
    pub(crate) duration: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Workload {
    Dirty(Dirty),
    Check(Check),
    /// Hold values in all registers.
    Regs {
        place: Place,
    },
    Blk(Blk),
    BlkBench(BlkBench),
    Net(Net),
    /// Bytes wanted from the entropy device.
    Rng {
        place: Place,
        device: u32,
        bytes: u64,
    },
    Console {
        place: Place,
        device: u32,
    },
}

impl Workload {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Dirty(Dirty { place, .. })
            | Self::Check(Check { place, .. })
            | Self::Regs { place }
            | Self::Blk(Blk { place, .. })
            | Self::BlkBench(BlkBench { place, .. })
            | Self::Net(Net { place, .. })
            | Self::Rng { place, .. }
            | Self::Console { place, .. } => *place,
        }
    }
}

/// Everything a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Milliseconds between heartbeats.
    pub(crate) heartbeat: Option<u64>,
    /// Microseconds between timer ticks of an idle processor.
    pub(crate) tick: u64,
    /// Milliseconds between report lines of a workload.
    pub(crate) every: u64,
    /// Milliseconds until the end.
    pub(crate) run_for: Option<u64>,
    pub(crate) end: Option<End>,
    /// Processors to expect when no table says.
    pub(crate) cpus: Option<u32>,
    /// Start the other processors.
    pub(crate) smp: bool,
    workloads: [Option<Workload>; MAX_WORKLOADS],
}

impl Options {
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.iter().flatten()
    }

    /// Reads a command line; hands what it does not understand to `refuse`.
    pub(crate) fn parse(line: &str, mut refuse: impl FnMut(&str)) -> Self {
        let mut options = Self {
            heartbeat: None,
            tick: 1_000,
            every: 1_000,
            run_for: None,
            end: None,
            cpus: None,
            smp: true,
            workloads: [None; MAX_WORKLOADS],
        };
        if line.trim().is_empty() {
            options.heartbeat = Some(100);
        }
        for token in line.split_ascii_whitespace() {
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            if options.set(name, value, &mut refuse).is_none() {
                refuse(token);
            }
        }
        options
    }

    fn set(&mut self, name: &str, value: &str, refuse: &mut dyn FnMut(&str)) -> Option<()> {
        match name {
            "heartbeat" if value.is_empty() => self.heartbeat = Some(100),
            "heartbeat" => self.heartbeat = Some(number(value)?.clamp(1, 86_400_000)),
            "tick" => self.tick = number(value)?.clamp(200, 1_000_000),
            "every" => self.every = number(value)?.clamp(1, 86_400_000),
            "for" => self.run_for = Some(number(value)?),
            "cpus" => self.cpus = Some(u32::try_from(number(value)?).ok()?),
            "smp" => self.smp = switch(value)?,
            "end" => self.end = Some(end(value)?),
            _ => {
                let workload = workload(name, value, refuse)?;
                *self.workloads.iter_mut().find(|slot| slot.is_none())? = Some(workload);
            }
        }
        Some(())
    }
}

fn end(value: &str) -> Option<End> {
    let (name, address) = match value.split_once(':') {
        Some((name, address)) => (name, number(address)?),
        None => (value, NOWHERE),
    };
    Some(match name {
        "poweroff" => End::Poweroff,
        "reset" => End::Reset,
        "halt" => End::Halt,
        "triple-fault" => End::TripleFault,
        "hang" => End::Hang,
        "bad-mmio" => End::BadMmio(address),
        "kvm-error" => End::KvmError(address),
        "fault" => End::Fault,
        _ => return None,
    })
}

fn workload(name: &str, value: &str, refuse: &mut dyn FnMut(&str)) -> Option<Workload> {
    let mut workload = match name {
        "dirty" => Workload::Dirty(Dirty {
            place: Place::Turn,
            size: 0,
            at: None,
            rate: 0,
            order: Order::Sequential,
            content: Content::Small(8),
            fill: true,
        }),
        "check" => Workload::Check(Check {
            place: Place::Turn,
            size: 0,
            rate: 0,
            verify: 0,
            entropy: 100,
        }),
        "blk" => Workload::Blk(Blk {
            place: Place::Turn,
            device: 0,
            verify_only: false,
            block: 4096,
            size: 0,
            rate: 0,
            flush: 0,
            poll: false,
        }),
        "blk-bench" => Workload::BlkBench(BlkBench {
            place: Place::Turn,
            device: 0,
            write: false,
            random: false,
            block: 4096,
            depth: 1,
            duration: 1_000,
            size: 0,
            poll: false,
        }),
        "net" | "net-bench" => Workload::Net(Net {
            place: Place::Turn,
            device: 0,
            ip: [10, 0, 2, 15],
            prefix: 24,
            udp: 7,
            poll: false,
            bench: (name == "net-bench").then_some(NetBench {
                to: [10, 0, 2, 2],
                port: 9,
                size: 1_472,
                duration: 1_000,
            }),
        }),
        "regs" => Workload::Regs { place: Place::Turn },
        "rng" => Workload::Rng {
            place: Place::Turn,
            device: 0,
            bytes: 4_096,
        },
        "console" => Workload::Console {
            place: Place::Turn,
            device: 0,
        },
        _ => return None,
    };
    for item in value.split(',').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once(':').unwrap_or(("", item));
        if set_item(&mut workload, key, value).is_none() {
            refuse(item);
        }
    }
    Some(workload)
}

/// `key` is empty for the item that stands alone.
fn set_item(workload: &mut Workload, key: &str, value: &str) -> Option<()> {
    if key == "cpu" {
        let place = match value {
            "all" => Place::All,
            _ => Place::One(u32::try_from(number(value)?).ok()?),
        };
        match workload {
            // A device has one driver.
            Workload::Dirty(dirty) => dirty.place = place,
            Workload::Check(check) => check.place = place,
            Workload::Regs { place: at } => *at = place,
            _ if place == Place::All => return None,
            Workload::Blk(blk) => blk.place = place,
            Workload::BlkBench(bench) => bench.place = place,
            Workload::Net(net) => net.place = place,
            Workload::Rng { place: at, .. } | Workload::Console { place: at, .. } => *at = place,
        }
        return Some(());
    }
    match workload {
        Workload::Dirty(dirty) => set_dirty(dirty, key, value),
        Workload::Check(check) => set_check(check, key, value),
        Workload::Regs { .. } => None,
        Workload::Blk(blk) => set_blk(blk, key, value),
        Workload::BlkBench(bench) => set_blk_bench(bench, key, value),
        Workload::Net(net) => set_net(net, key, value),
        Workload::Rng { device, bytes, .. } => {
            match key {
                "" => *device = u32::try_from(number(value)?).ok()?,
                "bytes" => *bytes = number(value)?.max(1),
                _ => return None,
            }
            Some(())
        }
        Workload::Console { device, .. } => {
            match key {
                "" => *device = u32::try_from(number(value)?).ok()?,
                _ => return None,
            }
            Some(())
        }
    }
}

fn set_dirty(dirty: &mut Dirty, key: &str, value: &str) -> Option<()> {
    match key {
        "" => dirty.size = number(value)?,
        "at" => dirty.at = Some(number(value)?),
        "rate" => dirty.rate = number(value)?,
        "fill" => dirty.fill = switch(value)?,
        "entropy" => dirty.content = Content::Entropy(percent(value)?),
        "small" => {
            let bytes = number(value)?;
            if !(8..=4096).contains(&bytes) || bytes % 8 != 0 {
                return None;
            }
            dirty.content = Content::Small(bytes as u16);
        }
        "pattern" => {
            dirty.order = match value {
                "seq" => Order::Sequential,
                "random" => Order::Random,
                "zipf" => Order::Zipf { theta: 0.99 },
                _ => return None,
            }
        }
        "theta" => {
            dirty.order = Order::Zipf {
                theta: decimal(value)?,
            }
        }
        _ => return None,
    }
    Some(())
}

fn set_check(check: &mut Check, key: &str, value: &str) -> Option<()> {
    match key {
        "" => check.size = number(value)?,
        "rate" => check.rate = number(value)?,
        "verify" => check.verify = number(value)?,
        "entropy" => check.entropy = percent(value)?,
        _ => return None,
    }
    Some(())
}

fn set_blk(blk: &mut Blk, key: &str, value: &str) -> Option<()> {
    match key {
        "" => blk.device = u32::try_from(number(value)?).ok()?,
        "mode" => {
            blk.verify_only = match value {
                "verify" => true,
                "write" => false,
                _ => return None,
            }
        }
        "block" => blk.block = block_size(value)?,
        "size" => blk.size = number(value)?,
        "rate" => blk.rate = number(value)?,
        "flush" => blk.flush = number(value)?,
        "poll" => blk.poll = switch(value)?,
        _ => return None,
    }
    Some(())
}

fn set_blk_bench(bench: &mut BlkBench, key: &str, value: &str) -> Option<()> {
    match key {
        "" => bench.device = u32::try_from(number(value)?).ok()?,
        "op" => {
            (bench.write, bench.random) = match value {
                "read" => (false, false),
                "write" => (true, false),
                "randread" => (false, true),
                "randwrite" => (true, true),
                _ => return None,
            }
        }
        "block" => bench.block = block_size(value)?,
        "depth" => {
            bench.depth = u16::try_from(number(value)?)
                .ok()
                .filter(|d| (1..=64).contains(d))?;
        }
        "for" => bench.duration = number(value)?,
        "size" => bench.size = number(value)?,
        "poll" => bench.poll = switch(value)?,
        _ => return None,
    }
    Some(())
}

fn set_net(net: &mut Net, key: &str, value: &str) -> Option<()> {
    match (key, &mut net.bench) {
        ("", _) => net.device = u32::try_from(number(value)?).ok()?,
        ("ip", _) => {
            let (ip, prefix) = value.split_once('/').unwrap_or((value, "24"));
            net.ip = address(ip)?;
            net.prefix = u8::try_from(number(prefix)?).ok().filter(|p| *p <= 32)?;
        }
        ("udp", _) => net.udp = u16::try_from(number(value)?).ok()?,
        ("poll", _) => net.poll = switch(value)?,
        ("to", Some(bench)) => bench.to = address(value)?,
        ("port", Some(bench)) => bench.port = u16::try_from(number(value)?).ok()?,
        ("size", Some(bench)) => {
            bench.size = u16::try_from(number(value)?)
                .ok()
                .filter(|s| (8..=1_472).contains(s))?;
        }
        ("for", Some(bench)) => bench.duration = number(value)?,
        _ => return None,
    }
    Some(())
}

/// Decimal or 0x, with an optional K, M, G or T for powers of 1024.
pub(crate) fn number(text: &str) -> Option<u64> {
    // The standard parsers take a sign, we do not.
    if text.contains('+') {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A number from 0 up to 10 with up to six decimals.
fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.len() > 6 || text.contains('+') {
        return None;
    }
    let mut scale = 1.0;
    for _ in 0..part.len() {
        scale *= 10.0;
    }
    let value = f64::from(whole.parse::<u8>().ok()?) + f64::from(part.parse::<u32>().ok()?) / scale;
    (value <= 10.0).then_some(value)
}

fn percent(text: &str) -> Option<u8> {
    u8::try_from(number(text)?)
        .ok()
        .filter(|percent| *percent <= 100)
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "1" => Some(true),
        "off" | "0" => Some(false),
        _ => None,
    }
}

fn block_size(text: &str) -> Option<u32> {
    let bytes = u32::try_from(number(text)?).ok()?;
    (bytes.is_multiple_of(512) && (512..=1 << 20).contains(&bytes)).then_some(bytes)
}

fn address(text: &str) -> Option<[u8; 4]> {
    let mut parts = text.split('.');
    let mut address = [0; 4];
    for byte in &mut address {
        *byte = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Options, Vec<String>) {
        let mut refused = Vec::new();
        let options = Options::parse(line, |item| refused.push(item.to_owned()));
        (options, refused)
    }

    fn only(line: &str) -> Workload {
        let (options, refused) = parse(line);
        assert!(refused.is_empty(), "{line}: {refused:?}");
        let mut all = options.workloads();
        let first = *all.next().expect("a workload");
        assert_eq!(all.next(), None);
        first
    }

    #[test]
    fn an_empty_line_means_a_heartbeat_every_tenth_of_a_second() {
        assert_eq!(parse("  ").0.heartbeat, Some(100));
        assert_eq!(parse("rng").0.heartbeat, None);
        assert_eq!(parse("heartbeat").0.heartbeat, Some(100));
        assert_eq!(parse("heartbeat=5").0.heartbeat, Some(5));
    }

    #[test]
    fn numbers_take_suffixes_and_hexadecimal() {
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("3K"), Some(3_072));
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("2T"), Some(2 << 40));
        for bad in ["", "M", "0x", "0x+1", "+1", "-1", "1.5", "99999999999T"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_dirty_workload_says_size_rate_order_content_and_place() {
        let Workload::Dirty(dirty) =
            only("dirty=64M,rate:1000,theta:0.5,entropy:30,cpu:2,at:0x1000000,fill:off")
        else {
            panic!("not dirty");
        };
        assert_eq!(
            (dirty.size, dirty.rate, dirty.at),
            (64 << 20, 1000, Some(0x100_0000))
        );
        assert_eq!(dirty.order, Order::Zipf { theta: 0.5 });
        assert_eq!(dirty.content, Content::Entropy(30));
        assert_eq!((dirty.place, dirty.fill), (Place::One(2), false));
    }

    #[test]
    fn what_is_not_understood_is_named_and_the_rest_stands() {
        let (options, refused) =
            parse("heartbeat=7 nonsense dirty=1M,speed:9,rate:5 end=never for=x small=1");
        assert_eq!(
            refused,
            ["nonsense", "speed:9", "end=never", "for=x", "small=1"]
        );
        assert_eq!(options.heartbeat, Some(7));
        assert!(matches!(
            options.workloads().next(),
            Some(Workload::Dirty(Dirty { rate: 5, .. }))
        ));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for item in [
            "small:7",
            "small:5000",
            "small:9",
            "entropy:101",
            "theta:11",
            "pattern:up",
            "theta:1.",
            "theta:+1",
        ] {
            assert_eq!(parse(&format!("dirty=1M,{item}")).1, [item]);
        }
        for line in [
            "blk=block:100",
            "blk-bench=depth:0",
            "blk-bench=depth:65",
            "net=ip:1.2.3/24",
            "net=ip:1.2.3.4/33",
        ] {
            assert_eq!(parse(line).1.len(), 1, "{line}");
        }
        assert_eq!(parse("net=cpu:all").1, ["cpu:all"]);
        assert_eq!(parse("regs=cpu:all").1, [""; 0]);
        assert_eq!(parse("regs=64M").1, ["64M"]);
        assert_eq!(parse("net=to:1.2.3.4").1, ["to:1.2.3.4"]);
    }

    #[test]
    fn a_line_with_too_many_workloads_keeps_the_first() {
        let (options, refused) = parse(&"rng ".repeat(MAX_WORKLOADS + 2));
        assert_eq!(options.workloads().count(), MAX_WORKLOADS);
        assert_eq!(refused, ["rng", "rng"]);
    }

    #[test]
    fn every_end_has_a_name() {
        for (name, end) in [
            ("poweroff", End::Poweroff),
            ("reset", End::Reset),
            ("halt", End::Halt),
            ("triple-fault", End::TripleFault),
            ("hang", End::Hang),
            ("bad-mmio", End::BadMmio(NOWHERE)),
            ("bad-mmio:0x1000", End::BadMmio(0x1000)),
            ("kvm-error", End::KvmError(NOWHERE)),
            ("fault", End::Fault),
        ] {
            assert_eq!(parse(&format!("end={name}")).0.end, Some(end));
        }
    }

    #[test]
    fn a_network_workload_has_an_address_and_a_bench_a_target() {
        let Workload::Net(net) =
            only("net-bench=1,ip:10.1.2.3/16,to:10.1.0.1,size:64,port:5000,for:250")
        else {
            panic!("not net");
        };
        assert_eq!((net.device, net.ip, net.prefix), (1, [10, 1, 2, 3], 16));
        assert_eq!(
            net.bench,
            Some(NetBench {
                to: [10, 1, 0, 1],
                port: 5000,
                size: 64,
                duration: 250
            })
        );
    }
}
