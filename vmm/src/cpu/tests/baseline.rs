use proptest::prelude::*;

use super::*;

fn of(samples: &[&Sample]) -> Baseline {
    let hosts: Vec<_> = samples.iter().map(|sample| sample.host()).collect();
    Baseline::of(&hosts.iter().collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_baseline_is_what_the_weaker_host_has() {
    let common = of(&[&skylake(), &haswell()]);
    assert!(common.features.has("avx2"));
    assert!(!common.features.has("avx512f"));
    assert_eq!(common.components.len(), 1);
    assert_eq!(common.signature, 0x0003_06c3);
    for sample in [skylake(), haswell()] {
        assert!(common.missing_features(&sample.host()).unwrap().is_empty());
    }
    let missing = of(&[&skylake()]).missing_features(&haswell().host());
    assert!(missing.unwrap().contains(&"avx512f".to_owned()));
}

#[test]
fn a_component_that_lies_elsewhere_is_not_common_though_both_hosts_have_the_feature() {
    // Both have protection keys, but Zen 4 keeps them behind AVX-512.
    let common = of(&[&zen3(), &zen4()]);
    assert!(of(&[&zen3()]).features.has("pku"));
    assert!(of(&[&zen4()]).features.has("pku"));
    assert!(!common.features.has("pku"));
    assert_eq!(common.components.len(), 1);
    let alone = of(&[&zen3()]).missing_features(&zen4().host()).unwrap();
    assert_eq!(alone, ["XSAVE component 9 of 8 bytes at 832"]);
    let table = show(&CpuProfile::Baseline(common), &zen4().host(), 1);
    assert_eq!(table.value(0xd, 0, Register::Eax), 0b111);
    assert_eq!(table.value(0xd, 0, Register::Ecx), 576 + 256);
    assert!(table.get(0xd, 9).is_none());
    assert_eq!(table.value(7, 0, Register::Ecx), 0);
}

#[test]
fn supervisor_components_live_in_the_compacted_area_only() {
    let mut sample = skylake().with(&["xsaves", "shstk"]);
    for (number, size) in [(11, 16), (12, 24)] {
        sample.table.set_subleaf(0xd, number, [size, 0, 0b11, 0]);
    }
    *sample.register(0xd, 1, Register::Ecx) = 0b11 << 11;
    let baseline = of(&[&sample]);
    assert!(baseline.features.has("shstk"));
    let table = show(&CpuProfile::Baseline(baseline), &sample.host(), 1);
    assert_eq!(table.value(0xd, 1, Register::Ecx), 0b11 << 11);
    assert_eq!(
        table.value(0xd, 0, Register::Ecx),
        2688 + 8,
        "standard area"
    );
    // 576 + 256 + 64 + 512 + 1024 + 8, then 16 and 24 bytes at multiples of 64.
    assert_eq!(table.value(0xd, 1, Register::Ebx), 2496 + 64 + 24);

    let without = sample.without(&["xsaves"]);
    assert!(!of(&[&without]).features.has("shstk"));
}

#[test]
fn hosts_of_different_vendors_have_no_baseline() {
    let error = Baseline::of(&[&skylake().host(), &zen4().host()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "hosts of GenuineIntel and AuthenticAMD have no common baseline; make one for each vendor"
    );
    assert_eq!(Baseline::of(&[]).unwrap_err(), CpuError::NoHosts);
    let missing = of(&[&skylake()]).missing_features(&zen4().host());
    assert_eq!(missing.unwrap(), ["vendor GenuineIntel"]);
}

#[test]
fn unknown_bits_are_never_part_of_a_baseline() {
    let mut sample = skylake();
    for word in WORDS {
        *sample.register(word.leaf, word.subleaf, word.register) |= !word.known();
    }
    let clean = show(
        &CpuProfile::Baseline(of(&[&skylake()])),
        &skylake().host(),
        1,
    );
    let table = show(&CpuProfile::Baseline(of(&[&sample])), &sample.host(), 1);
    for word in WORDS {
        let value = |table: &Table| table.value(word.leaf, word.subleaf, word.register);
        assert_eq!(value(&table), value(&clean), "{word:?}");
    }
}

/// Bits that describe the guest, not the host, and so may be set although no host has them.
fn computed(leaf: u32, register: Register) -> u32 {
    match (leaf, register) {
        (1, Register::Ecx) => features::HYPERVISOR,
        (1, Register::Edx) => features::HTT,
        (0x8000_0001, Register::Ecx) => features::CMP_LEGACY,
        _ => 0,
    }
}

/// A host with arbitrary features, known and unknown, and arbitrary components.
fn any_host(vendor: Vendor) -> impl Strategy<Value = Sample> {
    let base = match vendor {
        Vendor::Intel => Sample::intel(Level::V2, 0),
        _ => Sample::amd(Level::V2, 0),
    };
    // Mostly ones, or two hosts would have little in common.
    let word = (any::<u32>(), any::<u32>()).prop_map(|(a, b)| a | b);
    let component = (prop::bool::weighted(0.9), 1u32..3, 0u32..2);
    (
        prop::collection::vec(word, WORDS.len()),
        prop::collection::vec(component, 20),
        36u32..53,
        prop_oneof![Just(0x0003_06c3u32), Just(0x0005_0654), any::<u32>()],
    )
        .prop_map(move |(words, components, physical, signature)| {
            let mut sample = base.clone();
            for (word, bits) in WORDS.iter().zip(words) {
                *sample.register(word.leaf, word.subleaf, word.register) = bits;
            }
            for (number, (present, size, offset)) in (2..).zip(components) {
                if present {
                    let supervisor = u32::from(matches!(number, 11 | 12));
                    let registers = [size * 64, offset * 1024, supervisor, 0];
                    sample.table.set_subleaf(0xd, number, registers);
                    let (subleaf, register) = match supervisor {
                        0 => (0, Register::Eax),
                        _ => (1, Register::Ecx),
                    };
                    *sample.register(0xd, subleaf, register) |= 1 << number;
                }
            }
            *sample.register(0x8000_0008, 0, Register::Eax) = 0x3000 | physical;
            *sample.register(1, 0, Register::Eax) = signature;
            sample
        })
}

proptest! {
    #[test]
    fn what_a_baseline_shows_every_one_of_its_hosts_has(
        a in any_host(Vendor::Intel), b in any_host(Vendor::Intel), vcpus in 1u32..70
    ) {
        let (a, b) = (a.host(), b.host());
        let baseline = Baseline::of(&[&a, &b]).unwrap();
        let profile = CpuProfile::Baseline(baseline.clone());
        let (on_a, on_b) = (show(&profile, &a, vcpus), show(&profile, &b, vcpus));
        for word in WORDS {
            let value = |table: &Table| table.value(word.leaf, word.subleaf, word.register);
            let both = value(a.table()) & value(b.table());
            let allowed = both & word.known() | computed(word.leaf, word.register);
            prop_assert_eq!(value(&on_a) & !allowed, 0, "{:?}", word);
            prop_assert_eq!(value(&on_a), value(&on_b), "{:?}", word);
        }
        for (subleaf, register) in [(0, Register::Eax), (1, Register::Ecx)] {
            let value = |table: &Table| table.value(0xd, subleaf, register);
            let both = value(a.table()) & value(b.table());
            prop_assert_eq!(value(&on_a) & !(both | 0b11), 0);
        }
        for number in 2..22 {
            if let Some(shown) = on_a.get(0xd, number) {
                prop_assert_eq!(Some(shown), a.table().get(0xd, number));
                prop_assert_eq!(Some(shown), b.table().get(0xd, number));
            }
        }
    }

    #[test]
    fn the_order_of_hosts_does_not_matter(
        a in any_host(Vendor::Amd), b in any_host(Vendor::Amd), c in any_host(Vendor::Amd)
    ) {
        let [a, b, c] = [of(&[&a]), of(&[&b]), of(&[&c])];
        let left = a.and(&b).unwrap().and(&c).unwrap();
        prop_assert_eq!(&left, &a.and(&b.and(&c).unwrap()).unwrap());
        prop_assert_eq!(&left, &c.and(&b).unwrap().and(&a).unwrap());
        prop_assert_eq!(&left.and(&left).unwrap(), &left);
    }

    #[test]
    fn a_baseline_survives_its_text(a in any_host(Vendor::Intel)) {
        let baseline = of(&[&a]);
        prop_assert_eq!(baseline.to_string().parse::<Baseline>().unwrap(), baseline);
    }

    #[test]
    fn text_never_panics(text in "(baseline:)?[a-z0-9=,.@+]{0,80}") {
        let _ = text.parse::<CpuProfile>();
    }

    #[test]
    fn showing_what_is_shown_changes_nothing(
        amd in any::<bool>(), seed in any_host(Vendor::Intel), other in any_host(Vendor::Amd),
        vcpus in 1u32..300
    ) {
        let host = if amd { other.host() } else { seed.host() };
        let baseline = Baseline::of(&[&host]).unwrap();
        for profile in [CpuProfile::Host, CpuProfile::Baseline(baseline)] {
            let once = show(&profile, &host, vcpus);
            let again = HostCpu::new(once.entries(), false);
            prop_assert_eq!(show(&profile, &again, vcpus), once);
        }
    }
}

#[test]
fn what_members_have_in_common_by_name_is_what_their_hosts_have_in_common() {
    let samples = [haswell(), skylake(), zen3(), zen4()];
    for a in &samples {
        let named = of(&[a]).to_features();
        assert_eq!(Baseline::from_features(&named).unwrap(), of(&[a]));
        for b in &samples {
            let common = named.common(&of(&[b]).to_features());
            let Ok(hosts) = Baseline::of(&[&a.host(), &b.host()]) else {
                assert_eq!(common, None);
                continue;
            };
            assert_eq!(Baseline::from_features(&common.unwrap()).unwrap(), hosts);
        }
    }
    let cpu = node_cpu(&skylake().host()).unwrap();
    assert_eq!(cpu.level, Some(godwit_proto::cluster::CpuLevel::V4));
    let mut unknown = of(&[&haswell()]).to_features();
    unknown.features.push("warp_drive".into());
    let error = Baseline::from_features(&unknown).unwrap_err();
    assert!(error.to_string().contains("warp_drive"), "{error}");
}
