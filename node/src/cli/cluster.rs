//! `godwit cluster`: making a cluster, and nodes of machines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;
use godwit_proto::peer::JoinRequest;

use super::cluster_status::Status;
use super::daemon::DATA_DIR;
use super::guest_args::Assignment;
use super::output::Output;
use crate::daemon::config::{DataDir, NewCluster, NodeConfig};
use crate::identity::{Authority, Credentials, IssuedTokens, JoinToken, KeyPair};
use crate::peers;

/// Make a cluster, nodes of machines, and look where it stands
#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    Status(Status),
    Init(Init),
    Token(Token),
    Join(Join),
}

impl Cluster {
    pub(super) fn execute(&self) -> ExitCode {
        let done = match self {
            Self::Status(status) => return status.execute(),
            Self::Init(init) => init.run(),
            Self::Token(token) => token.run(),
            Self::Join(join) => join.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Output::default().fail(&error),
        }
    }
}

/// What this machine is as a node.
#[derive(Args, Debug)]
struct NodeArgs {
    /// Directory of the node's files
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Address that other nodes reach this one at (UDP)
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The same as others see it, if it differs
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Name of the node [default: the host's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What fails together with it: a rack, a power feed
    #[arg(long, value_name = "NAME", default_value = "")]
    failure_domain: String,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Assignment>,
}

impl NodeArgs {
    fn config(&self, makes_cluster: Option<NewCluster>) -> Result<NodeConfig, CodedError> {
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            let text = format!("other nodes cannot reach this one at {}", self.listen);
            return Err(CodedError::new(ErrorCode::Usage, text)
                .with_fix("give the address of an interface, or --advertise"));
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        };
        let labels = self.labels.iter();
        Ok(NodeConfig {
            name,
            listen: self.listen,
            advertise: self.advertise.clone(),
            failure_domain: self.failure_domain.clone(),
            labels: labels
                .map(|label| (label.id.clone(), label.value.clone()))
                .collect(),
            makes_cluster,
        })
    }

    /// The data directory, which has no node yet.
    fn empty(&self) -> Result<DataDir, CodedError> {
        let data = DataDir::open(&self.data_dir)?;
        if Credentials::exist(&data.identity()) {
            let text = format!("{} has a node already", self.data_dir.display());
            return Err(CodedError::new(ErrorCode::AlreadyExists, text)
                .with_fix("start it with `godwit node`, or give another directory"));
        }
        Ok(data)
    }

    fn say_how_to_go_on(&self) {
        eprintln!(
            "start it with\n  godwit node --data-dir {}",
            self.data_dir.display()
        );
    }
}

/// Make a new cluster, with this machine as its first node
#[derive(Args, Debug)]
pub(super) struct Init {
    #[command(flatten)]
    node: NodeArgs,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "godwit")]
    cluster_name: String,
    /// Short leases: a lost node's guests are started elsewhere after 3 s in place of 10 s. For
    /// networks and hosts that never stall for a second
    #[arg(long)]
    fast_leases: bool,
}

impl Init {
    fn run(&self) -> Result<(), CodedError> {
        let data = self.node.empty()?;
        let config = self.node.config(Some(NewCluster {
            name: self.cluster_name.clone(),
            fast_leases: self.fast_leases,
        }))?;
        let authority = Authority::generate().map_err(|error| error.coded())?;
        let credentials = Credentials::first(new_id()?, &authority);
        let credentials = credentials.map_err(|error| error.coded())?;
        config.save(&data)?;
        credentials
            .save(&data.identity(), Some(&authority))
            .map_err(|error| error.coded())?;
        eprintln!(
            "cluster {} is made; this machine is its first node, {}",
            self.cluster_name, config.name
        );
        self.node.say_how_to_go_on();
        Ok(())
    }
}

/// Print a token with which one machine can join
///
/// It is good once and for a while, and names this cluster and no other. To be asked for on the node that
/// made the cluster.
#[derive(Args, Debug)]
pub(super) struct Token {
    /// Directory of the node's files
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// How long it is good, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_080))]
    valid: u64,
}

impl Token {
    fn run(&self) -> Result<(), CodedError> {
        let data = DataDir::open(&self.data_dir)?;
        let config = NodeConfig::load(&data)?;
        let (_, authority) = Credentials::load(&data.identity()).map_err(|error| error.coded())?;
        let authority =
            authority.ok_or_else(|| crate::identity::IdentityError::NoAuthority.coded())?;
        let issued = IssuedTokens::open(&data.tokens()).and_then(|tokens| {
            let lifetime = Duration::from_secs(self.valid * 60);
            tokens.issue(authority.certificate(), lifetime, vec![config.address()])
        });
        println!("{}", issued.map_err(|error| error.coded())?.to_text());
        Ok(())
    }
}

/// Make this machine a node of the cluster that a token is of
#[derive(Args, Debug)]
pub(super) struct Join {
    /// The token, from `godwit cluster token`
    token: String,
    #[command(flatten)]
    node: NodeArgs,
}

impl Join {
    fn run(&self) -> Result<(), CodedError> {
        let token: JoinToken = self
            .token
            .parse()
            .map_err(|error: crate::identity::IdentityError| error.coded())?;
        let data = self.node.empty()?;
        let config = self.node.config(None)?;
        let key = KeyPair::generate().map_err(|error| error.coded())?;
        let request = JoinRequest {
            secret: token.secret,
            public_key: key.public().to_vec(),
            program: env!("CARGO_PKG_VERSION").into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
        let joined = runtime.block_on(peers::join(&token, request))?;
        config.save(&data)?;
        Credentials::joined(joined, key)
            .save(&data.identity(), None)
            .map_err(|error| error.coded())?;
        eprintln!("this machine may join as node {}", config.name);
        self.node.say_how_to_go_on();
        Ok(())
    }
}

fn new_id() -> Result<NodeId, CodedError> {
    crate::daemon::random_bytes().map(NodeId::from_bytes)
}
