//! Each kind of rule, required and preferred.

use godwit_proto::cluster::{RuleKind, Scope, Strength};

use super::world::{World, against};

const REQUIRED: Strength = Strength::Required;
const PREFERRED: Strength = Strength::Preferred { weight: 10 };

#[test]
fn guests_that_must_be_apart_are_and_the_last_one_is_told_who_is_in_its_way() {
    let mut world = World::new();
    let (a, b) = (world.node("a", "", &[]), world.node("b", "", &[]));
    world.rule(
        "web-apart",
        "web",
        RuleKind::AntiAffinity(Scope::Node),
        REQUIRED,
    );
    let web: &[_] = &[("service", "web")];
    let new = world.new_guest("web-1", web);
    let first = world.start(new).unwrap();
    let new = world.new_guest("web-2", web);
    let second = world.start(new).unwrap();
    assert_ne!(first, second);
    let new = world.new_guest("web-3", web);
    let explanation = world.explain_new(&new);
    assert_eq!(explanation.chosen, None);
    let texts = [against(&explanation, a), against(&explanation, b)].concat();
    assert_eq!(texts.len(), 2);
    assert!(
        texts[0].contains("rule web-apart wants it apart from guest web-"),
        "{texts:?}"
    );
    let error = explanation.to_error().unwrap().to_string();
    assert!(
        error.contains("make rule web-apart a preference"),
        "{error}"
    );
    assert_eq!(world.start(new), None);
    let other = world.new_guest("db-1", &[("service", "db")]);
    assert!(world.start(other).is_some());
}

#[test]
fn guests_that_must_not_share_a_rack_do_not() {
    let mut world = World::new();
    let a1 = world.node("a1", "rack-a", &[]);
    let a2 = world.node("a2", "rack-a", &[]);
    let b1 = world.node("b1", "rack-b", &[]);
    let alone = world.node("alone", "", &[]);
    world.rule(
        "racks",
        "web",
        RuleKind::AntiAffinity(Scope::FailureDomain),
        REQUIRED,
    );
    let web: &[_] = &[("service", "web")];
    let new = world.new_guest("web-1", web);
    let guest = world.start_on(new, a1);
    let new = world.new_guest("web-2", web);
    let explanation = world.explain_new(&new);
    assert!(against(&explanation, a2)[0].contains("apart from guest web-1"));
    assert!(against(&explanation, b1).is_empty() && against(&explanation, alone).is_empty());
    // It is not in its own way.
    assert!(against(&world.explain_move(guest), a2).is_empty());
    assert_eq!(
        against(&world.explain_move(guest), a1),
        ["the guest is there already"]
    );
}

#[test]
fn guests_that_must_be_together_follow_the_first_one() {
    let mut world = World::new();
    world.node("a", "", &[]);
    world.node("b", "", &[]);
    world.rule("pair", "pair", RuleKind::Affinity(Scope::Node), REQUIRED);
    let pair: &[_] = &[("service", "pair")];
    let new = world.new_guest("pair-1", pair);
    let first = world.start(new);
    let new = world.new_guest("pair-2", pair);
    assert_eq!(world.start(new), first);
    assert!(first.is_some());
    let mut new = world.new_guest("pair-3", pair);
    new.template.memory_bytes = 15 << 30;
    let explanation = world.explain_new(&new);
    assert_eq!(explanation.chosen, None);
    let other = explanation
        .nodes
        .iter()
        .find(|n| Some(n.node) != first)
        .unwrap();
    assert_eq!(
        against(&explanation, other.node),
        ["rule pair wants it in the same node as guests that are elsewhere"]
    );
    assert_eq!(
        against(&explanation, first.unwrap()),
        ["15360 MiB of memory are needed, 14336 MiB are free"]
    );
}

#[test]
fn a_preference_yields_to_what_is_possible_and_goes_before_the_strategy() {
    let mut world = World::new();
    let ssd = world.node("ssd", "", &[("disk", "ssd")]);
    let hdd = world.node("hdd", "", &[("disk", "hdd")]);
    let nodes = [("disk", "ssd")].into_iter().collect();
    world.rule("fast", "db", RuleKind::NodeAffinity { nodes }, PREFERRED);
    let db: &[_] = &[("service", "db")];
    for name in ["db-1", "db-2"] {
        let mut new = world.new_guest(name, db);
        new.template.memory_bytes = 6 << 30;
        assert_eq!(world.start(new), Some(ssd), "{name}");
    }
    let mut new = world.new_guest("db-3", db);
    new.template.memory_bytes = 6 << 30;
    assert_eq!(world.start(new), Some(hdd));
}

#[test]
fn the_heavier_preference_wins_and_equal_ones_leave_it_to_the_strategy() {
    let mut world = World::new();
    let a = world.node("a", "", &[("zone", "a")]);
    let b = world.node("b", "", &[("zone", "b")]);
    let zone = |zone| RuleKind::NodeAffinity {
        nodes: [("zone", zone)].into_iter().collect(),
    };
    world.rule(
        "light",
        "web",
        zone("a"),
        Strength::Preferred { weight: 10 },
    );
    world.rule(
        "heavy",
        "web",
        zone("b"),
        Strength::Preferred { weight: 11 },
    );
    let web: &[_] = &[("service", "web")];
    for name in ["web-1", "web-2"] {
        let new = world.new_guest(name, web);
        assert_eq!(world.start(new), Some(b));
    }
    world.rule(
        "as-heavy",
        "web",
        zone("a"),
        Strength::Preferred { weight: 1 },
    );
    let new = world.new_guest("web-3", web);
    assert_eq!(world.start(new), Some(a), "the emptier one");
}

#[test]
fn a_node_that_changes_its_rack_takes_its_guests_along() {
    let mut world = World::new();
    let a = world.node("a", "rack-a", &[]);
    let b = world.node("b", "rack-b", &[]);
    world.rule(
        "racks",
        "web",
        RuleKind::AntiAffinity(Scope::FailureDomain),
        REQUIRED,
    );
    let new = world.new_guest("web-1", &[("service", "web")]);
    world.start_on(new, a);
    let new = world.new_guest("web-2", &[("service", "web")]);
    assert!(against(&world.explain_new(&new), b).is_empty());
    let node = world.workload.state.node(a).unwrap().clone();
    let report = godwit_proto::cluster::NodeReport {
        id: a,
        name: node.meta.name,
        labels: node.meta.labels,
        address: node.address,
        certificate: node.certificate,
        capacity: node.capacity,
        cpu: node.cpu,
        failure_domain: "rack-b".into(),
        pools: node.pools,
        networks: node.networks,
    };
    world.apply(godwit_proto::cluster::Command::Node(
        godwit_proto::cluster::NodeCommand::Join {
            report: Box::new(report),
            lower_baseline: false,
        },
    ));
    assert_eq!(against(&world.explain_new(&new), b).len(), 1);
}
