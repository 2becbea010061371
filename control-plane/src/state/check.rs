//! What values may be.

use godwit_proto::cluster::{Capacity, CpuFeatures, GuestTemplate, Labels, Settings, limits};

use super::refusal::Refusal;

/// A name: what a DNS label may be (RFC 1123, section 2.1), in lower case.
pub(super) fn name(field: &str, name: &str) -> Result<(), Refusal> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=limits::MAX_NAME_BYTES).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-');
    match good {
        true => Ok(()),
        false => Err(Refusal::invalid(
            field,
            format!(
                "must be 1 to {} of a-z, 0-9 and inner dashes, not {:?}",
                limits::MAX_NAME_BYTES,
                quote(name)
            ),
        )),
    }
}

/// A line of text for people.
pub(super) fn text(field: &str, text: &str) -> Result<(), Refusal> {
    longest(field, text, limits::MAX_TEXT_BYTES)?;
    match text.chars().any(char::is_control) {
        true => Err(Refusal::invalid(
            field,
            "must not contain control characters",
        )),
        false => Ok(()),
    }
}

/// A line of text that must say something.
pub(super) fn filled(field: &str, value: &str) -> Result<(), Refusal> {
    match value.is_empty() {
        true => Err(Refusal::invalid(field, "must not be empty")),
        false => text(field, value),
    }
}

pub(super) fn longest(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    match text.len() {
        length if length > max => Err(Refusal::invalid(
            field,
            format!("must be at most {max} bytes, not {length}"),
        )),
        _ => Ok(()),
    }
}

pub(super) fn labels(field: &str, labels: &Labels) -> Result<(), Refusal> {
    if labels.len() > limits::MAX_LABELS {
        let max = limits::MAX_LABELS;
        return Err(Refusal::invalid(field, format!("must be at most {max}")));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let good = |text: &str| text.len() <= limits::MAX_LABEL_BYTES && text.chars().all(allowed);
    for (key, value) in labels.iter() {
        if key.is_empty() || !good(key) || !good(value) {
            return Err(Refusal::invalid(
                field,
                format!(
                    "must have keys and values of at most {} of A-Z, a-z, 0-9 and -_./, not {:?}",
                    limits::MAX_LABEL_BYTES,
                    quote(&format!("{key}={value}"))
                ),
            ));
        }
    }
    Ok(())
}

pub(super) fn capacity(capacity: &Capacity) -> Result<(), Refusal> {
    // 4 PiB and 65,536 processors: beyond any machine, and far from where sums overflow.
    if capacity.memory_bytes > 1 << 52 {
        return Err(Refusal::invalid("memory", "must be at most 4 PiB"));
    }
    if !(1..=1 << 16).contains(&capacity.cpus) {
        return Err(Refusal::invalid("processors", "must be 1 to 65536"));
    }
    Ok(())
}

pub(super) fn cpu(cpu: &CpuFeatures) -> Result<(), Refusal> {
    filled("CPU vendor", &cpu.vendor)?;
    let max = limits::MAX_CPU_FEATURES;
    if cpu.features.len() > max {
        return Err(Refusal::invalid(
            "CPU features",
            format!("must be at most {max}"),
        ));
    }
    if !cpu.features.is_sorted() {
        return Err(Refusal::invalid("CPU features", "must be sorted"));
    }
    let max = limits::MAX_XSAVE_COMPONENTS;
    if cpu.components.len() > max {
        return Err(Refusal::invalid(
            "XSAVE components",
            format!("must be at most {max}"),
        ));
    }
    let needed = cpu.components.iter().flat_map(|part| &part.needed_by);
    for (index, feature) in cpu.features.iter().chain(needed).enumerate() {
        longest("name of a CPU feature", feature, limits::MAX_LABEL_BYTES)?;
        if index > 16 * limits::MAX_CPU_FEATURES {
            return Err(Refusal::invalid(
                "XSAVE components",
                "name too many features",
            ));
        }
    }
    Ok(())
}

/// What of a template can be told without looking at other objects.
pub(super) fn template(template: &GuestTemplate) -> Result<(), Refusal> {
    let max = limits::MAX_GUEST_VCPUS;
    if !(1..=max).contains(&template.vcpus) {
        return Err(Refusal::invalid("vCPUs", format!("must be 1 to {max}")));
    }
    if !limits::GUEST_MEMORY_BYTES.contains(&template.memory_bytes) {
        return Err(Refusal::invalid("memory", "must be 1 MiB to 1 TiB"));
    }
    labels("node selector", &template.node_selector)?;
    let boot = &template.boot;
    if let godwit_proto::guest::Kernel::File(path) = &boot.kernel {
        filled("kernel", path)?;
    }
    boot.initrd
        .iter()
        .try_for_each(|path| filled("initrd", path))?;
    boot.cmdline
        .iter()
        .try_for_each(|line| text("kernel command line", line))?;
    if template.volumes.len() > limits::MAX_GUEST_VOLUMES {
        let max = limits::MAX_GUEST_VOLUMES;
        return Err(Refusal::invalid(
            "volumes",
            format!("must be at most {max}"),
        ));
    }
    if template.networks.len() > limits::MAX_GUEST_NETWORKS {
        let max = limits::MAX_GUEST_NETWORKS;
        return Err(Refusal::invalid(
            "networks",
            format!("must be at most {max}"),
        ));
    }
    let volumes = template.volumes.iter().map(|volume| &volume.id);
    let devices: Vec<&String> = volumes
        .chain(template.networks.iter().map(|n| &n.id))
        .collect();
    for (index, device) in devices.iter().enumerate() {
        name("name of a device", device)?;
        if devices[..index].contains(device) {
            return Err(Refusal::invalid(
                "name of a device",
                format!("{device} is there twice"),
            ));
        }
    }
    for net in &template.networks {
        // Multicast addresses are not for devices (IEEE 802, section 8.2).
        if net.mac[0] & 1 != 0 || net.mac == [0; 6] {
            return Err(Refusal::invalid(
                "MAC address",
                format!("of {} is not a device's", net.id),
            ));
        }
    }
    Ok(())
}

pub(super) fn settings(settings: &Settings) -> Result<(), Refusal> {
    name("cluster name", &settings.meta.name)?;
    let overcommit = settings.overcommit;
    if !(100..=100_000).contains(&overcommit.cpu_permille) {
        return Err(Refusal::invalid("CPU overcommit", "must be 0.1 to 100"));
    }
    if !(100..=10_000).contains(&overcommit.memory_permille) {
        return Err(Refusal::invalid("memory overcommit", "must be 0.1 to 10"));
    }
    let limits = [
        settings.migrations_per_node,
        settings.migrations_per_cluster,
    ];
    if limits.iter().any(|limit| !(1..=10_000).contains(limit)) {
        return Err(Refusal::invalid(
            "limits on migrations",
            "must be 1 to 10000",
        ));
    }
    let lease = settings.lease;
    if !(1_000..=600_000).contains(&lease.duration_ms) {
        return Err(Refusal::invalid("lease", "must last 1 s to 10 min"));
    }
    if lease.renew_ms < 100 || lease.renew_ms > lease.duration_ms / 2 {
        return Err(Refusal::invalid(
            "lease renewal",
            "must be every 100 ms to half of its duration",
        ));
    }
    Ok(())
}

/// The beginning of a text that may be anything.
fn quote(text: &str) -> String {
    text.chars().take(80).collect()
}
