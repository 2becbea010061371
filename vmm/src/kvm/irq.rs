//! Interrupts and doorbells over KVM: GSI routes, irqfds, ioeventfds.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::interrupt::{Doorbells, InterruptError, IrqLine, MsiController, MsiMessage, MsiVector};

/// Pins of the I/O APIC; interrupt numbers below this are lines, above are messages.
const IOAPIC_PINS: u32 = 24;
/// Lines that also reach the legacy PICs.
const PIC_PINS: u32 = 16;
/// Routes a guest can have, lines included. KVM takes 4096; this is more than 31 PCI functions with
/// 64 queues each would use.
pub const MAX_GSIS: usize = 2048;

struct Routes {
    /// Index is the GSI minus [`IOAPIC_PINS`]. `None` is a free slot.
    messages: Vec<Option<MsiMessage>>,
}

/// The machine's interrupt routes and doorbells.
pub struct IrqRouter {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

impl IrqRouter {
    /// Takes over the routing of a machine that has its in-kernel interrupt controller.
    ///
    /// # Errors
    /// [`InterruptError::Kernel`].
    pub(super) fn new(vm: Arc<VmFd>) -> Result<Arc<Self>, InterruptError> {
        let router = Self {
            vm,
            routes: Mutex::new(Routes {
                messages: Vec::new(),
            }),
        };
        router.apply(&router.lock())?;
        Ok(Arc::new(router))
    }

    /// A line into I/O APIC pin `gsi` (and the PIC below 16).
    ///
    /// # Errors
    /// [`InterruptError::Kernel`].
    pub fn line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, InterruptError> {
        assert!(
            gsi < IOAPIC_PINS,
            "interrupt line {gsi} is not a pin of the I/O APIC"
        );
        let event = eventfd()?;
        self.vm
            .register_irqfd(&event, gsi)
            .map_err(|e| kernel(format!("register an irqfd for line {gsi}"), e))?;
        Ok(Arc::new(Line { event }))
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes
            .lock()
            .expect("no thread panics while it changes interrupt routes")
    }

    fn apply(&self, routes: &Routes) -> Result<(), InterruptError> {
        let mut entries = Vec::with_capacity(routes.messages.len() + 40);
        for gsi in 0..IOAPIC_PINS {
            if gsi < PIC_PINS {
                let chip = if gsi < 8 {
                    KVM_IRQCHIP_PIC_MASTER
                } else {
                    KVM_IRQCHIP_PIC_SLAVE
                };
                entries.push(line_entry(gsi, chip, gsi % 8));
            }
            entries.push(line_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        }
        for (slot, message) in routes.messages.iter().enumerate() {
            if let Some(message) = message {
                entries.push(message_entry(IOAPIC_PINS + slot as u32, *message));
            }
        }
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| InterruptError::Exhausted { limit: MAX_GSIS })?;
        self.vm
            .set_gsi_routing(&table)
            .map_err(|e| kernel(format!("set {} interrupt routes", entries.len()), e))
    }
}

fn line_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_bindings::kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_bindings::kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

fn kernel(operation: String, errno: kvm_ioctls::Error) -> InterruptError {
    InterruptError::Kernel {
        operation,
        source: errno.into(),
    }
}

fn eventfd() -> Result<EventFd, InterruptError> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|source| InterruptError::Kernel {
        operation: "create an eventfd for an interrupt".into(),
        source,
    })
}

/// Adds to the counter. A full counter (2^64 - 2 unseen interrupts) still means "pending".
fn signal(event: &EventFd) -> Result<(), InterruptError> {
    match event.write(1) {
        Err(source) if source.kind() != io::ErrorKind::WouldBlock => Err(InterruptError::Kernel {
            operation: "signal an interrupt's eventfd".into(),
            source,
        }),
        _ => Ok(()),
    }
}

struct Line {
    event: EventFd,
}

impl IrqLine for Line {
    fn trigger(&self) -> Result<(), InterruptError> {
        signal(&self.event)
    }
}

/// The router as devices hold it: vectors keep it alive.
impl MsiController for Arc<IrqRouter> {
    fn allocate(&self) -> Result<Arc<dyn MsiVector>, InterruptError> {
        let event = eventfd()?;
        let mut routes = self.lock();
        let slot = match routes.messages.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if routes.messages.len() + (IOAPIC_PINS as usize) < MAX_GSIS => {
                routes.messages.push(None);
                routes.messages.len() - 1
            }
            None => return Err(InterruptError::Exhausted { limit: MAX_GSIS }),
        };
        // An all-zero message is a placeholder; it is never delivered while the irqfd is absent.
        routes.messages[slot] = Some(MsiMessage::default());
        Ok(Arc::new(Message {
            router: self.clone(),
            slot,
            event,
            attached: Mutex::new(false),
        }))
    }
}

struct Message {
    router: Arc<IrqRouter>,
    slot: usize,
    event: EventFd,
    /// Whether the irqfd is registered.
    attached: Mutex<bool>,
}

impl Message {
    fn gsi(&self) -> u32 {
        IOAPIC_PINS + self.slot as u32
    }

    fn attached(&self) -> MutexGuard<'_, bool> {
        self.attached
            .lock()
            .expect("no thread panics while it attaches an irqfd")
    }
}

impl MsiVector for Message {
    fn enable(&self, message: MsiMessage) -> Result<(), InterruptError> {
        let mut attached = self.attached();
        {
            let mut routes = self.router.lock();
            if routes.messages[self.slot] != Some(message) {
                routes.messages[self.slot] = Some(message);
                self.router.apply(&routes)?;
            }
        }
        if !*attached {
            let gsi = self.gsi();
            self.router
                .vm
                .register_irqfd(&self.event, gsi)
                .map_err(|e| kernel(format!("register an irqfd for gsi {gsi}"), e))?;
            *attached = true;
        }
        Ok(())
    }

    fn disable(&self) -> Result<(), InterruptError> {
        let mut attached = self.attached();
        if *attached {
            let gsi = self.gsi();
            self.router
                .vm
                .unregister_irqfd(&self.event, gsi)
                .map_err(|e| kernel(format!("unregister the irqfd of gsi {gsi}"), e))?;
            *attached = false;
        }
        Ok(())
    }

    fn trigger(&self) -> Result<(), InterruptError> {
        signal(&self.event)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Err(error) = self.disable() {
            tracing::warn!(%error, "an interrupt route was not released");
        }
        self.router.lock().messages[self.slot] = None;
    }
}

impl Doorbells for IrqRouter {
    fn register(&self, address: u64, event: &EventFd) -> Result<(), InterruptError> {
        self.vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|e| kernel(format!("register a doorbell at {address:#x}"), e))
    }

    fn unregister(&self, address: u64, event: &EventFd) -> Result<(), InterruptError> {
        self.vm
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|e| kernel(format!("unregister the doorbell at {address:#x}"), e))
    }
}
