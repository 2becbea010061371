//! What a node was told when it was made, on disk; and where its files are.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use godwit_proto::codes::{CodedError, ErrorCode};
use serde::{Deserialize, Serialize};

const CONFIG: &str = "config.json";
/// The longest path of a Unix socket, `sun_path` of unix(7), with its zero.
const MAX_SOCKET_PATH: usize = 108;
/// What follows the directory of guests in the path of a guest's socket: an id, an epoch, a name.
const SOCKET_TAIL: usize =
    "/00000000000000000000000000000000.18446744073709551615/guest.sock".len();

/// The settings of a node. They are read at each start and can be edited between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The address it listens on for other nodes (UDP).
    pub listen: SocketAddr,
    /// Host and port at which other nodes reach it; `listen` when absent.
    #[serde(default)]
    pub advertise: Option<String>,
    /// What fails together with it; empty when nothing does.
    #[serde(default)]
    pub failure_domain: String,
    /// Its labels when it joins.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Set on the node that makes the cluster.
    #[serde(default)]
    pub makes_cluster: Option<NewCluster>,
}

/// What a cluster is made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCluster {
    /// Its name.
    pub name: String,
    /// Whether leases are short: 3 s, renewed each second, in place of 10 s and 2 s.
    pub fast_leases: bool,
}

impl NodeConfig {
    /// Host and port at which other nodes reach it.
    #[must_use]
    pub fn address(&self) -> String {
        self.advertise
            .clone()
            .unwrap_or_else(|| self.listen.to_string())
    }

    /// Reads it.
    ///
    /// # Errors
    /// There is none, or it makes no sense.
    pub fn load(data: &DataDir) -> Result<Self, CodedError> {
        let path = data.0.join(CONFIG);
        let text = fs::read(&path).map_err(|error| {
            let text = format!("cannot read {}: {error}", path.display());
            CodedError::new(ErrorCode::Usage, text).with_fix(
                "make a node of this machine first: `godwit cluster init` or `godwit cluster join`",
            )
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            let text = format!("{}: {error}", path.display());
            CodedError::new(ErrorCode::ConfigInvalid, text).with_fix("mend the file")
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, data: &DataDir) -> Result<(), CodedError> {
        let path = data.0.join(CONFIG);
        let text = serde_json::to_vec_pretty(self).expect("names are strings");
        fs::write(&path, text).map_err(|error| {
            let text = format!("cannot write {}: {error}", path.display());
            CodedError::new(ErrorCode::Other, text).with_fix("check the data directory")
        })
    }
}

/// The directory of a node.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// That at `path`, which is made for this user alone if it is missing.
    ///
    /// # Errors
    /// It cannot be made, or its path is too long for sockets below it.
    pub fn open(path: &Path) -> Result<Self, CodedError> {
        let failed = |error: std::io::Error| {
            let text = format!("cannot use {} as data directory: {error}", path.display());
            CodedError::new(ErrorCode::Other, text).with_fix("give another one with --data-dir")
        };
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let data = Self(path);
        if data.guests().as_os_str().len() + SOCKET_TAIL >= MAX_SOCKET_PATH {
            let text = format!(
                "the path {} is too long: sockets below it could not be bound",
                data.0.display()
            );
            return Err(CodedError::new(ErrorCode::Usage, text)
                .with_fix("give a shorter one with --data-dir"));
        }
        Ok(data)
    }

    /// The node's identity.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// Join tokens that nobody used yet.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.0.join("join-tokens")
    }

    /// The replica's log and state.
    #[must_use]
    pub fn replica(&self) -> PathBuf {
        self.0.join("replica")
    }

    /// A directory for each guest process.
    #[must_use]
    pub fn guests(&self) -> PathBuf {
        self.0.join("guests")
    }

    /// What the node pledged.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// Held while a daemon runs here.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig {
            name: "a".into(),
            listen: "192.0.2.7:7400".parse().unwrap(),
            advertise: None,
            failure_domain: "rack-1".into(),
            labels: [("zone".into(), "north".into())].into(),
            makes_cluster: Some(NewCluster {
                name: "lab".into(),
                fast_leases: true,
            }),
        }
    }

    #[test]
    fn a_configuration_is_read_as_it_was_written_and_unknown_fields_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(NodeConfig::load(&data).is_err());
        config().save(&data).unwrap();
        assert_eq!(NodeConfig::load(&data).unwrap(), config());
        assert_eq!(config().address(), "192.0.2.7:7400");
        let path = dir.path().join(CONFIG);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("failure_domain", "failure_demain")).unwrap();
        let error = NodeConfig::load(&data).unwrap_err();
        assert!(error.to_string().contains("failure_demain"), "{error}");
    }

    #[test]
    fn a_directory_whose_sockets_could_not_be_bound_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(60));
        let error = DataDir::open(&long).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
