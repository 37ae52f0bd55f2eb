//! `chappe node check`: finds mistakes before a node starts, in its config and on its machine.

mod finding;
mod local;
mod network;

use anyhow::{Result, bail};
use chappe_node::NodeConfig;
use clap::Args;
use serde::Serialize;

use self::finding::{Finding, Level};
use super::KEY_FILE;
use crate::{
    commands::{daemon::DaemonArgs, owner::continue_as_owner},
    network::ResolverArgs,
    output::Output,
};

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    node_config: DaemonArgs,

    #[command(flatten)]
    resolver: ResolverArgs,
}

#[derive(Serialize)]
struct Verdict {
    event: &'static str,
    ok: bool,
    problems: usize,
    warnings: usize,
}

pub(super) async fn run(args: &CheckArgs, output: Output) -> Result<()> {
    if let Some(error) = continue_as_owner(args.node_config.file()) {
        return Err(error);
    }
    // An invalid config ends the command: its error names the file and the key.
    let config: NodeConfig = args.node_config.load()?;
    config.check()?;
    // As the daemon's user, who may not be the owner of the config.
    if let Some(error) = continue_as_owner(&config.node.data_dir.join(KEY_FILE)) {
        return Err(error);
    }
    let mut findings = vec![Finding::fine("config", "all keys are valid")];
    findings.extend(local::all(args.node_config.file(), &config));
    findings.extend(network::all(&config, &args.resolver.net()?).await);
    findings.iter().for_each(|finding| finding.print(output));
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let text = match (problems, warnings) {
        (0, 0) => "no problems found".to_owned(),
        (problems, warnings) => format!("problems: {problems}, warnings: {warnings}"),
    };
    output.print(&text, &Verdict { event: "verdict", ok: problems == 0, problems, warnings });
    if problems == 0 { Ok(()) } else { bail!("the node would not work: see above") }
}
