//! `godwit rule`: placement rules.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use godwit_proto::api::{CreateRule, Rule, RuleKind, Scope, Strength};

use super::guest_args::Assignment;
use super::resources::{create, delete};
use super::session::Reach;
use super::text::{age, labels, sign};
use super::vm_create::map;

const EXAMPLES: &str = "\
Examples:
  godwit rule create db-apart --guests app=db --apart node
  godwit rule create web-near-cache --guests app=web --together failure-domain --prefer 10
  godwit rule create on-ssd --guests disk=fast --on disk=ssd";

/// Rules about where guests may live
#[derive(Args, Debug)]
pub(super) struct RuleArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// List placement rules
    #[command(visible_alias = "ls")]
    List,
    /// Remove a placement rule
    #[command(visible_alias = "rm")]
    Delete {
        /// The rule, by name or id
        rule: String,
    },
}

/// Make a placement rule; guests stay where they are, it holds for what is placed from now on
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("kind").required(true).args(["apart", "together", "on"]))]
struct Create {
    /// Its name: a-z, 0-9 and dashes
    name: String,
    /// Label of the guests it is about; may be repeated
    #[arg(long, value_name = "KEY=VALUE", required = true)]
    guests: Vec<Assignment>,
    /// No two of them live on one node, or in one failure domain
    #[arg(long, value_enum, value_name = "SCOPE")]
    apart: Option<ScopeArg>,
    /// They live on one node, or in one failure domain
    #[arg(long, value_enum, value_name = "SCOPE")]
    together: Option<ScopeArg>,
    /// They live on nodes with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    on: Vec<Assignment>,
    /// Nodes that follow it are preferred, by this weight, 1 to 100; without this no guest is placed
    /// against it
    #[arg(long, value_name = "WEIGHT")]
    prefer: Option<u8>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeArg {
    Node,
    FailureDomain,
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Self {
        match scope {
            ScopeArg::Node => Self::Node,
            ScopeArg::FailureDomain => Self::FailureDomain,
        }
    }
}

impl Create {
    fn request(&self) -> CreateRule {
        let rule = match (self.apart, self.together) {
            (Some(scope), _) => RuleKind::AntiAffinity {
                scope: scope.into(),
            },
            (None, Some(scope)) => RuleKind::Affinity {
                scope: scope.into(),
            },
            (None, None) => RuleKind::NodeAffinity {
                nodes: map(&self.on),
            },
        };
        CreateRule {
            name: self.name.clone(),
            guests: map(&self.guests),
            rule,
            strength: match self.prefer {
                Some(weight) => Strength::Preferred { weight },
                None => Strength::Required,
            },
        }
    }
}

impl RuleArgs {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            Command::Create(rule) => create(session, "rule", &rule.name, &rule.request()),
            Command::List => {
                let columns = ["NAME", "GUESTS", "RULE", "STRENGTH", "AGE"];
                session.list("/v1/rules", &columns, |rule: &Rule| {
                    let kind = match &rule.rule {
                        RuleKind::NodeAffinity { nodes } => format!("on {}", labels(nodes)),
                        RuleKind::Affinity { scope } => format!("together, {}", sign(scope)),
                        RuleKind::AntiAffinity { scope } => format!("apart, {}", sign(scope)),
                    };
                    let strength = match rule.strength {
                        Strength::Required => "required".into(),
                        Strength::Preferred { weight } => format!("preferred={weight}"),
                    };
                    let (name, guests) = (rule.name.clone(), labels(&rule.guests));
                    vec![name, guests, kind, strength, age(rule.created)]
                })
            }
            Command::Delete { rule } => delete(session, "rule", rule),
        })
    }
}
