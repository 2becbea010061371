//! The command line: what the guest is asked to do. The grammar is described
//! in the payload's README. An option that is not understood is reported and
//! left out; the rest stands.

use super::value::{number, switch};
use super::workload::{Workload, workload};

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

#[cfg(test)]
mod tests {
    use super::super::fill::Content;
    use super::super::pattern::Order;
    use super::super::workload::{Dirty, NetBench, Place};
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
