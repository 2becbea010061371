//! Where a guest could go, and why.

use godwit_control_plane::scheduler::{Behind, Explanation, NodeVerdict, Score, Verdict};
use godwit_control_plane::state::State;
use godwit_proto::api;

use super::named_node;

pub(in super::super) fn explanation(state: &State, explanation: &Explanation) -> api::Explanation {
    api::Explanation {
        guest: explanation.guest.clone(),
        strategy: explanation.strategy.into(),
        chosen: explanation.chosen.map(|node| named_node(state, node)),
        nodes: explanation.nodes.iter().map(verdict).collect(),
        remedies: explanation.remedies.clone(),
    }
}

fn verdict(node: &NodeVerdict) -> api::Verdict {
    let (verdict, score, reasons) = match &node.verdict {
        Verdict::Chosen(score) => (api::VerdictKind::Chosen, Some(*score), Vec::new()),
        Verdict::Fits { score, behind } => {
            let reason = match behind {
                Behind::Preference => "preferred rules speak for another node",
                Behind::Strategy => "the strategy prefers another node",
                Behind::Id => "another node is as good and comes first by id",
            };
            (api::VerdictKind::Fits, Some(*score), vec![reason.into()])
        }
        Verdict::Rejected(rejections) => {
            let reasons = rejections.iter().map(ToString::to_string).collect();
            (api::VerdictKind::Rejected, None, reasons)
        }
    };
    api::Verdict {
        id: node.node.to_string(),
        name: node.name.clone(),
        verdict,
        score: score.map(|score: Score| api::Score {
            preference: score.preference,
            load_permille: score.load_permille,
            skew_permille: score.skew_permille,
        }),
        reasons,
    }
}
