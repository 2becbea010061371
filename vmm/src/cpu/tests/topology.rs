use super::*;

const COUNTS: [u32; 4] = [1, 2, 3, 64];

fn ids(vcpus: u32) -> u32 {
    [(1, 1), (2, 2), (3, 4), (64, 64)]
        .into_iter()
        .find(|(count, _)| *count == vcpus)
        .map(|(_, ids)| ids)
        .unwrap()
}

fn tables(sample: &Sample, vcpus: u32) -> Vec<Table> {
    let guest = CpuProfile::Host
        .apply(&sample.host(), vcpus, Options::default())
        .unwrap();
    assert_eq!(guest.vcpus(), vcpus);
    (0..vcpus)
        .map(|vcpu| guest.for_vcpu(vcpu).into_iter().collect())
        .collect()
}

#[test]
fn leaf_1_tells_the_apic_id_and_the_size_of_the_package() {
    for sample in [skylake(), zen4()] {
        for vcpus in COUNTS {
            for (id, table) in (0..).zip(tables(&sample, vcpus)) {
                let features = table.get(1, 0).unwrap();
                assert_eq!(features.ebx >> 24, id, "initial APIC id");
                assert_eq!(features.ebx >> 16 & 0xff, ids(vcpus), "ids of the package");
                assert_eq!(features.ebx & 0xff00, 0x0800, "the cache line stays");
                assert_eq!(features.edx >> 28 & 1 == 1, vcpus > 1, "HTT");
                assert_eq!(features.ecx >> 31, 1, "hypervisor");
            }
        }
    }
}

#[test]
fn leaves_0xb_and_0x1f_tell_one_thread_per_core_and_all_cores() {
    for (sample, leaves) in [(skylake(), &[0xb, 0x1f][..]), (zen4(), &[0xb])] {
        for vcpus in COUNTS {
            for (id, table) in (0..).zip(tables(&sample, vcpus)) {
                for &leaf in leaves {
                    let level = |subleaf| {
                        let entry = table.get(leaf, subleaf).unwrap();
                        assert_eq!(entry.edx, id, "x2APIC id");
                        assert_eq!(entry.flags, 1, "asked by subleaf");
                        (entry.eax, entry.ebx, entry.ecx)
                    };
                    assert_eq!(level(0), (0, 1, 0x100), "threads of a core");
                    let shift = ids(vcpus).trailing_zeros();
                    assert_eq!(level(1), (shift, vcpus, 0x201), "cores of the package");
                    assert_eq!(level(2), (0, 0, 2), "the end");
                }
            }
        }
    }
    assert!(
        tables(&zen4(), 2)[0].get(0x1f, 0).is_none(),
        "beyond leaf 0"
    );
}

#[test]
fn intel_caches_below_the_third_level_belong_to_one_core() {
    for vcpus in COUNTS {
        let table = &tables(&skylake(), vcpus)[0];
        for subleaf in 0..4 {
            let before = skylake().table.value(4, subleaf, Register::Eax);
            let eax = table.value(4, subleaf, Register::Eax);
            assert_eq!(eax & 0x3fff, before & 0x3fff, "type and level stay");
            let sharing = (eax >> 14 & 0xfff) + 1;
            assert_eq!(sharing, if subleaf == 3 { ids(vcpus) } else { 1 });
            assert_eq!((eax >> 26) + 1, ids(vcpus), "core ids");
        }
        assert_eq!(table.value(4, 4, Register::Eax), 0, "the end stays the end");
    }
}

#[test]
fn amd_leaves_tell_the_same_cores() {
    for vcpus in COUNTS {
        for (id, table) in (0..).zip(tables(&zen4(), vcpus)) {
            let sizes = table.get(0x8000_0008, 0).unwrap();
            assert_eq!(sizes.ecx & 0xff, vcpus - 1, "cores");
            assert_eq!(
                1 << (sizes.ecx >> 12 & 0xf),
                ids(vcpus),
                "bits of a core id"
            );
            let legacy = table.value(0x8000_0001, 0, Register::Ecx) >> 1 & 1;
            assert_eq!(legacy == 1, vcpus > 1, "CmpLegacy");
            let place = table.get(0x8000_001e, 0).unwrap();
            assert_eq!((place.eax, place.ebx, place.ecx), (id, id, 0));
            for subleaf in 0..4 {
                let eax = table.value(0x8000_001d, subleaf, Register::Eax);
                let sharing = (eax >> 14 & 0xfff) + 1;
                assert_eq!(sharing, if subleaf == 3 { vcpus } else { 1 });
            }
        }
    }
}

#[test]
fn amd_leaves_stay_away_from_an_intel_table() {
    let table = &tables(&skylake(), 4)[0];
    assert!(table.get(0x8000_001e, 0).is_none());
    assert_eq!(table.value(0x8000_0001, 0, Register::Ecx) >> 1 & 1, 0);
}

#[test]
fn no_vcpu_and_too_many_are_refused() {
    for vcpus in [0, MAX_VCPUS + 1, u32::MAX] {
        let error = CpuProfile::Host
            .apply(&skylake().host(), vcpus, Options::default())
            .unwrap_err();
        assert_eq!(error, CpuError::Vcpus { vcpus });
    }
    for sample in [skylake(), zen4()] {
        let guest = CpuProfile::Host
            .apply(&sample.host(), MAX_VCPUS, Options::default())
            .unwrap();
        let last: Table = guest.for_vcpu(MAX_VCPUS - 1).into_iter().collect();
        assert_eq!(last.value(1, 0, Register::Ebx) >> 24, 0xff);
        assert_eq!(last.value(0xb, 0, Register::Edx), MAX_VCPUS - 1);
    }
}
