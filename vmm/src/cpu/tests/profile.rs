use super::*;

fn brand(table: &Table) -> String {
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .filter_map(|leaf| table.get(leaf, 0))
        .flat_map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
        .flat_map(u32::to_le_bytes)
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_host_profile_keeps_features_and_brand_but_not_what_ties_the_guest_down() {
    let mut sample = skylake().with(&["tsc_adjust"]);
    sample.table.set(0x8000_0002, [0x6b73_6154, 0, 0, 0]);
    *sample.register(1, 0, Register::Ecx) |= features::VMX | features::OSXSAVE;
    *sample.register(7, 0, Register::Edx) |= 1 << 29;
    let host = sample.host();
    let table = show(&CpuProfile::Host, &host, 2);
    assert_eq!(brand(&table), "Task");
    assert_eq!(Features::of(&table), Features::of(host.table()));
    assert_eq!(
        table.value(7, 0, Register::Edx) >> 29 & 1,
        1,
        "unnamed bits"
    );
    let leaf_1 = table.value(1, 0, Register::Ecx);
    assert_eq!(leaf_1 & (features::VMX | features::OSXSAVE), 0);
    assert_eq!(table.value(0x8000_0007, 0, Register::Edx), 0);
    assert_eq!(table.value(0xd, 0, Register::Eax), 0b10_1110_0111);
}

#[test]
fn nested_virtualization_and_the_invariant_tsc_are_shown_on_request() {
    let options = Options {
        nested: true,
        invariant_tsc: true,
    };
    let mut sample = zen4();
    *sample.register(0x8000_0001, 0, Register::Ecx) |= features::SVM;
    sample.table.set(0x8000_000a, [1, 8, 0, 1]);
    let asked = CpuProfile::Host.apply(&sample.host(), 1, options).unwrap();
    let asked: Table = asked.for_vcpu(0).into_iter().collect();
    let svm = |table: &Table| table.value(0x8000_0001, 0, Register::Ecx) & features::SVM;
    assert_ne!(svm(&asked), 0);
    assert!(asked.get(0x8000_000a, 0).is_some());
    assert_ne!(asked.value(0x8000_0007, 0, Register::Edx), 0);

    let not_asked = show(&CpuProfile::Host, &sample.host(), 1);
    assert_eq!(svm(&not_asked), 0);
    assert!(not_asked.get(0x8000_000a, 0).is_none());

    let level = CpuProfile::Level(Level::V3);
    let level = level.apply(&sample.host(), 1, options).unwrap();
    let level: Table = level.for_vcpu(0).into_iter().collect();
    assert_eq!(svm(&level), 0, "a level never has it");
    assert_ne!(level.value(0x8000_0007, 0, Register::Edx), 0);
}

#[test]
fn a_level_shows_the_same_features_on_every_host_that_has_them() {
    for (level, hosts) in [
        (Level::V2, [haswell(), skylake()]),
        (Level::V3, [haswell(), skylake()]),
        (Level::V2, [zen3(), zen4()]),
        (Level::V3, [zen3(), zen4()]),
    ] {
        let [a, b] = hosts.map(|sample| show(&CpuProfile::Level(level), &sample.host(), 2));
        assert_eq!(Features::of(&a), Features::of(&b));
        for leaf in [1, 7, 0xd, 0x8000_0001, 0x8000_0008] {
            let of = |table: &Table| -> Vec<_> {
                let entries = table.entries().into_iter();
                entries.filter(|entry| entry.function == leaf).collect()
            };
            assert_eq!(of(&a), of(&b), "leaf {leaf:#x} of {level}");
        }
        assert_eq!(brand(&a), format!("Godwit virtual CPU ({level})"));
        assert_eq!(a.value(0, 0, Register::Eax), 0xd);
    }
}

#[test]
fn the_levels_are_those_of_the_psabi() {
    let v4 = show(&CpuProfile::Level(Level::V4), &skylake().host(), 1);
    let features = Features::of(&v4);
    for name in [
        "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", // v2
        "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", // v3
        "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", // v4
    ] {
        assert!(features.has(name), "{name}");
    }
    assert!(!features.has("pku"), "not more");
    assert_eq!(v4.value(0xd, 0, Register::Eax), 0b1110_0111);
    assert_eq!(v4.value(0xd, 0, Register::Ecx), 1664 + 1024);
    let v2 = show(&CpuProfile::Level(Level::V2), &skylake().host(), 1);
    assert_eq!(
        v2.value(0xd, 0, Register::Eax),
        0,
        "no XSAVE, no components"
    );
    assert_eq!(v2.value(7, 0, Register::Ebx), 0b10, "tsc_adjust only");
}

#[test]
fn leaf_7_counts_its_subleaves() {
    let plain = show(&CpuProfile::Level(Level::V3), &haswell().host(), 1);
    assert_eq!(plain.value(7, 0, Register::Eax), 0);
    for (feature, highest) in [("avx_vnni", 1), ("bhi_ctrl", 2)] {
        let sample = haswell().with(&[feature]);
        let baseline = Baseline::of(&[&sample.host()]).unwrap();
        let table = show(&CpuProfile::Baseline(baseline), &sample.host(), 1);
        assert_eq!(table.value(7, 0, Register::Eax), highest, "{feature}");
    }
}

#[test]
fn amd_repeats_leaf_1_in_its_own_leaf() {
    let table = show(&CpuProfile::Level(Level::V3), &zen4().host(), 1);
    let basic = table.value(1, 0, Register::Edx);
    let extended = table.value(0x8000_0001, 0, Register::Edx);
    assert_eq!(
        extended & features::AMD_REPEATED,
        basic & features::AMD_REPEATED
    );
    assert_eq!(table.value(0x8000_0001, 0, Register::Eax), 0x0080_0f12);
}

#[test]
fn a_host_that_lacks_something_is_refused_by_name() {
    let sample = haswell().without(&["bmi2", "pdpe1gb"]);
    let level = CpuProfile::Level(Level::V3);
    assert_eq!(
        level.missing_features(&sample.host()).unwrap(),
        ["bmi2", "pdpe1gb"]
    );
    let error = level
        .apply(&sample.host(), 1, Options::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this host's CPU lacks bmi2, pdpe1gb of profile x86-64-v3; \
         choose a lower profile or another host"
    );
    assert_eq!(
        CpuProfile::Host.missing_features(&sample.host()).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn a_feature_whose_xsave_component_is_switched_off_counts_as_missing() {
    let sample = Sample::intel(Level::V3, 0x0003_06c3);
    let missing = CpuProfile::Level(Level::V3)
        .missing_features(&sample.host())
        .unwrap();
    assert_eq!(missing, ["fma", "avx", "f16c", "avx2"]);
}

#[test]
fn the_tsc_deadline_timer_comes_from_the_capability() {
    let entries = haswell().without(&["tsc_deadline_timer"]).table.entries();
    let level = CpuProfile::Level(Level::V2);
    let without = HostCpu::new(entries.clone(), false);
    assert_eq!(
        level.missing_features(&without).unwrap(),
        ["tsc_deadline_timer"]
    );
    let with = HostCpu::new(entries, true);
    assert_eq!(
        show(&level, &with, 1).value(1, 0, Register::Ecx) >> 24 & 1,
        1
    );
}

#[test]
fn a_table_without_its_first_leaves_is_refused() {
    let empty = HostCpu::new([], true);
    for profile in [CpuProfile::Host, CpuProfile::Level(Level::V2)] {
        let error = profile.apply(&empty, 1, Options::default()).unwrap_err();
        assert!(matches!(error, CpuError::NoLeaf { .. }), "{error}");
    }
    let mut stranger = haswell();
    stranger.table.set(0, [0xd, 0x6972_7543, 0, 0]);
    CpuProfile::Host
        .apply(&stranger.host(), 1, Options::default())
        .unwrap();
    let error = CpuProfile::Level(Level::V2)
        .apply(&stranger.host(), 1, Options::default())
        .unwrap_err();
    assert!(matches!(error, CpuError::UnknownVendor { .. }), "{error}");
}

#[test]
fn profiles_are_read_as_they_are_written() {
    let computed = Baseline::of(&[&zen3().host(), &zen4().host()]).unwrap();
    for (profile, text) in [
        (CpuProfile::Host, "host"),
        (CpuProfile::Level(Level::V2), "x86-64-v2"),
        (CpuProfile::Level(Level::V3), "x86-64-v3"),
        (CpuProfile::Level(Level::V4), "x86-64-v4"),
        (
            CpuProfile::Baseline(computed),
            "baseline:vendor=AuthenticAMD,",
        ),
    ] {
        let written = profile.to_string();
        assert!(written.starts_with(text), "{written}");
        assert_eq!(written.parse::<CpuProfile>().unwrap(), profile);
    }
}

#[test]
fn texts_that_are_no_profile_are_refused_with_the_part_that_is_wrong() {
    let good = "baseline:vendor=GenuineIntel,signature=000306c3,physical=46";
    good.parse::<CpuProfile>().unwrap();
    for (text, complaint) in [
        ("", "use host"),
        ("x86-64-v5", "use host"),
        ("HOST", "use host"),
        ("baseline:", "has no"),
        ("baseline:vendor=GenuineIntel", "signature"),
        ("baseline:vendor=Acme", "Acme"),
        (&format!("{good},physical=47"), "twice"),
        (&format!("{good},1.0.ecx=1,1.0.ecx=1"), "twice"),
        (&format!("{good},1.0.ecx=xyz"), "not hexadecimal"),
        (&format!("{good},1.0.ecx=+1"), "not hexadecimal"),
        (&format!("{good},1.0.ecx=20"), "does not know"),
        (&format!("{good},2.0.ecx=1"), "does not know"),
        (&format!("{good},1.0.ecx=10000000"), "fit together"),
        (&format!("{good},xstate.2=256@576+0"), "fit together"),
        (&format!("{good},xstate.2=4294967295@0+0"), "NUMBER=SIZE"),
        (&format!("{good},xstate.17=64@0+0"), "NUMBER=SIZE"),
        (
            &format!("{good},physical=64").replace("=46,", "=64,"),
            "32 to 52",
        ),
        (&format!("{good}{}", ",".repeat(3000)), "too long"),
    ] {
        let error = text.parse::<CpuProfile>().unwrap_err().to_string();
        assert!(error.contains(complaint), "{text}: {error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{error}");
    }
}
