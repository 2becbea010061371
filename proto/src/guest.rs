//! What a user asks for.
//!
//! Nothing here is checked: names may be empty, sizes absurd, paths missing. The VMM turns a spec
//! into its validated configuration, and says which field it refuses and why.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// A guest as asked for, unvalidated. Saved with a snapshot, so that a restore builds the same
/// machine.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Name for people.
    pub name: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Guest memory.
    pub memory: MemorySpec,
    /// What CPU the guest sees: `host`, or the text of a named or computed baseline.
    pub cpu_profile: String,
    /// What is booted.
    pub boot: BootSpec,
    /// Where the 16550 serial port is connected.
    pub serial: SerialSpec,
    /// Block devices, in the order of their PCI slots.
    pub disks: Vec<DiskSpec>,
    /// Network devices, in the order of their PCI slots.
    pub nets: Vec<NetSpec>,
    /// Whether the guest has a virtio entropy device.
    pub rng: bool,
    /// Where the virtio console is connected; without it the guest has none.
    pub console: Option<SerialSpec>,
}
record!(GuestSpec, Kind::GuestSpec, version = 1);

/// Guest memory as asked for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MemorySpec {
    /// Total bytes of guest memory.
    pub size_bytes: u64,
    /// What backs it on the host.
    pub huge_pages: HugePages,
}

/// The host pages behind guest memory.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// 4 KiB pages.
    None,
    /// 2 MiB pages where the host finds them, else 4 KiB (`MADV_HUGEPAGE`).
    Transparent,
    /// 2 MiB pages from the host's reserve (`MFD_HUGETLB`).
    Huge2M,
}

/// What is booted.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BootSpec {
    /// The kernel.
    pub kernel: Kernel,
    /// Path of the initial RAM disk.
    pub initrd: Option<String>,
    /// Kernel command line; the kernel's default when absent.
    pub cmdline: Option<String>,
}

/// Where the kernel comes from.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The test guest embedded in the program.
    BuiltIn,
    /// A file: ELF (PVH or 64-bit Linux entry) or bzImage.
    File(String),
}

/// The host's end of a character device.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum SerialSpec {
    /// Output is dropped, there is no input.
    Null,
    /// Standard input and output of the guest process.
    Stdio,
    /// Output is appended to the file at this path, there is no input.
    File(String),
    /// A Unix socket created at this path; one client at a time.
    Socket(String),
}

/// A block device.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name of the device, unique in the guest.
    pub id: String,
    /// Path of the raw image or block device.
    pub path: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether discards reach the backing file.
    pub discard: bool,
    /// Whether the host's page cache is bypassed (`O_DIRECT`).
    pub direct: bool,
}

/// A network device.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// Name of the device, unique in the guest.
    pub id: String,
    /// Name of the host's tap interface.
    pub tap: String,
    /// The guest's address; derived by the VMM when absent.
    pub mac: Option<[u8; 6]>,
    /// Pairs of receive and transmit queues.
    pub queue_pairs: u16,
    /// Whether checksum and segmentation offloads are offered.
    pub offload: bool,
}
