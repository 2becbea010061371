use kvm_bindings::{CpuId, KVM_CAP_TSC_DEADLINE_TIMER, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use super::*;

/// This machine's KVM and processor.
fn this_host() -> Option<(Kvm, HostCpu)> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            crate::skip::skipped!("/dev/kvm cannot be opened: {error}");
            return None;
        }
    };
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let deadline = kvm.check_extension_raw(KVM_CAP_TSC_DEADLINE_TIMER.into()) > 0;
    let entries = supported.as_slice().iter().map(|entry| CpuidEntry {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    });
    Some((kvm, HostCpu::new(entries, deadline)))
}

fn to_kvm(entries: &[CpuidEntry]) -> CpuId {
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| kvm_cpuid_entry2 {
            function: entry.function,
            index: entry.index,
            flags: entry.flags,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).unwrap()
}

#[test]
fn kvm_accepts_the_tables_of_every_profile_that_this_machine_can_show() {
    let Some((kvm, host)) = this_host() else {
        return;
    };
    let baseline = Baseline::of(&[&host]).unwrap();
    let mut profiles = vec![CpuProfile::Host, CpuProfile::Baseline(baseline)];
    profiles.extend(Level::ALL.map(CpuProfile::Level));
    for profile in profiles {
        let guest = match profile.apply(&host, 3, Options::default()) {
            Ok(guest) => guest,
            Err(error @ CpuError::Missing { .. }) if matches!(profile, CpuProfile::Level(_)) => {
                eprintln!("not on this machine: {error}");
                continue;
            }
            Err(error) => panic!("{profile}: {error}"),
        };
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        for index in 0..3 {
            let vcpu = vm.create_vcpu(u64::from(index)).unwrap();
            vcpu.set_cpuid2(&to_kvm(&guest.for_vcpu(index))).unwrap();
            let answered = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap();
            let leaf_1 = answered
                .as_slice()
                .iter()
                .find(|entry| entry.function == 1)
                .unwrap();
            assert_eq!(leaf_1.ebx >> 24, index, "{profile}");
        }
    }
}

#[test]
fn this_machines_own_baseline_is_not_empty_and_nothing_of_it_is_missing() {
    let Some((_, host)) = this_host() else {
        return;
    };
    let baseline = Baseline::of(&[&host]).unwrap();
    for name in ["fpu", "sse2", "lm", "syscall", "nx"] {
        assert!(baseline.features.has(name), "{name} in {baseline}");
    }
    assert_eq!(baseline.missing_features(&host).unwrap(), [""; 0]);
    assert_eq!(baseline.to_string().parse::<Baseline>().unwrap(), baseline);
}
