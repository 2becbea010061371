//! What one node may ask the leader to commit. The transport proved who it is; a node speaks for itself
//! alone, and what only a leader knows, only the leader says.

use godwit_control_plane::state::State;
use godwit_proto::cluster::{
    AbortCause, ClusterCommand, Command, GuestCommand, MigrationCommand, NodeCommand,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{MigrationId, NodeId};

/// Whether `from` may have `command` committed. What users ask for, any node may pass on.
///
/// # Errors
/// Why not.
pub(super) fn check(from: NodeId, command: &Command, state: &State) -> Result<(), CodedError> {
    let itself = |node: NodeId, what: &str| match node == from {
        true => Ok(()),
        false => Err(refuse(format!("node {from} cannot {what} for node {node}"))),
    };
    let source = |id: MigrationId| state.migration(id).map(|migration| migration.source);
    let target = |id: MigrationId| state.migration(id).map(|migration| migration.target);
    let end = |node: Option<NodeId>, what: &str| match node {
        Some(node) => itself(node, what),
        None => Err(CodedError::new(
            ErrorCode::NotFound,
            "there is no such migration",
        )),
    };
    let leader = |what: &str| Err(refuse(format!("only the leader can say that {what}")));
    match command {
        Command::Node(NodeCommand::Join { report, .. }) => itself(report.id, "join"),
        Command::Node(NodeCommand::GrantLease { .. }) => leader("a lease is granted"),
        Command::Node(NodeCommand::LapseLease { .. }) => leader("a lease has lapsed"),
        Command::Guest(GuestCommand::Report(report)) => itself(report.node, "report"),
        Command::Guest(GuestCommand::FailOver { .. }) => leader("a guest is failed over"),
        Command::Migration(MigrationCommand::TargetReady { migration, .. }) => {
            end(target(*migration), "be ready")
        }
        Command::Migration(
            MigrationCommand::OpenWindow { migration }
            | MigrationCommand::NoteReceipt { migration, .. },
        ) => end(source(*migration), "speak"),
        Command::Migration(MigrationCommand::Complete { migration, .. }) => {
            end(target(*migration), "complete a migration")
        }
        Command::Migration(MigrationCommand::Abort {
            migration, cause, ..
        }) => match cause {
            AbortCause::SourceKept | AbortCause::SourceGone => {
                end(source(*migration), "give a migration up")
            }
            AbortCause::TargetNeverRan | AbortCause::TargetGone => {
                end(target(*migration), "give a migration up")
            }
            AbortCause::NotOpened => Ok(()),
        },
        Command::Cluster(ClusterCommand::Lead { .. } | ClusterCommand::ReportBlockers { .. }) => {
            leader("it leads")
        }
        _ => Ok(()),
    }
}

fn refuse(text: String) -> CodedError {
    CodedError::new(ErrorCode::RequestInvalid, text)
}
