//! The workloads that a command line can ask for, and the items that describe
//! them.

use super::fill::Content;
use super::pattern::Order;
use super::value::{address, block_size, decimal, number, percent, switch};

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

/// The workload of that name with the items of `value`; hands items that it does
/// not understand to `refuse`.
pub(crate) fn workload(name: &str, value: &str, refuse: &mut dyn FnMut(&str)) -> Option<Workload> {
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
