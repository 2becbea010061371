//! How a guest came here: what a migration back where it came from builds on.

use std::sync::Arc;

use godwit_migration::page::DigestTable;
use godwit_proto::id::MigrationId;
use godwit_proto::migrate::Retained;

/// The end of the migration by which a guest came.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The migration.
    pub by: MigrationId,
    /// Digests of the pages as they came, which is as they are where they came from.
    pub digests: Arc<DigestTable>,
}

impl Arrived {
    /// As an offer tells it.
    pub(super) fn retained(&self) -> Retained {
        Retained {
            migration: self.by,
            digest_seed: self.digests.seed().0,
        }
    }
}
