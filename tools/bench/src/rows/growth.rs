//! The cost of forwarding as the federation grows. The other members are simulated by one process on the generator's
//! core.

use super::{Bench, NO_TARGETS, SMALL, Targets};
use crate::{
    contender::Contender,
    generator::{Depth, Load, Pace},
    server::Servers,
};

const FEW: &str = "3 members";
const MANY: &str = "many members";

impl Bench {
    /// The same traffic in a small federation and in a large one.
    pub(super) async fn growth(&self) {
        let members = if self.quick { 60 } else { 300 };
        let few = Servers::node_among(3, &self.folder("few")).await;
        let many = Servers::node_among(members, &self.folder("many")).await;
        let sessions = 1000;
        let mut contenders = vec![
            Contender::start(FEW, few, sessions, Depth::Inbox).await,
            Contender::start(MANY, many, sessions, Depth::Inbox).await,
        ];
        let load = Load { pace: Pace::Open { rate: 20_000.0 }, size: SMALL, seconds: 1.5 };
        let targets = Targets { cpu: &[(FEW, 1.1)], ..NO_TARGETS };
        let what = format!("3 or {members} members");
        self.compare(&format!("1 KiB, 20,000/s, {what}"), &mut contenders, load, targets).await;
        for (contender, expected) in contenders.iter_mut().zip([3, members]) {
            let usage = contender.generator.rest(5.0).await;
            let share = usage.servers.as_secs_f64() / usage.elapsed.as_secs_f64() * 100.0;
            self.figures.print(&format!("{what}: CPU at rest, {}", contender.name), share, "%", None);
            let counted = contender.servers.members().await;
            if !contender.servers.are_whole() {
                self.figures.warn(&format!("{what}: not to be trusted: the others of {} have ended", contender.name));
            }
            if counted != [expected] {
                self.figures.warn(&format!("{what}: not to be trusted: {counted:?} of {expected} members are left"));
            }
        }
    }
}
