//! A generator's process: sends it commands, and receives its measurements.

use std::time::Duration;

use chappe_harness::{
    cores,
    cpu::Use,
    process::{self, Process},
};
use serde_json::json;

use super::generator::{Answer, Command, Depth, Load, Loaded, Moved, Opened, Plan, Server};

/// The timeout of a command.
const LONGEST: Duration = Duration::from_secs(180);

/// Starts the bench's own program with these arguments on one core. In a test, it is the one that cargo has built with
/// it.
///
/// # Panics
/// It doesn't start.
pub(crate) fn start_self_on(core: usize, args: &[&str]) -> Process {
    let mut command = cores::command_on(core, &process::beside("bench"));
    command.args(args);
    Process::start_told(command)
}

/// A generator's process.
#[derive(Debug)]
pub struct Generator(Process);

impl Generator {
    /// Starts one.
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start(plan: &Plan) -> Self {
        Self(start_self_on(cores::GENERATORS, &["generate", &json!(plan).to_string()]))
    }

    async fn ask(&mut self, command: &Command) -> Answer {
        self.0.tell(&json!(command)).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Answer {
        serde_json::from_value(self.0.line_within(LONGEST).await).expect("an answer")
    }

    /// Opens sessions.
    ///
    /// # Panics
    /// One isn't opened.
    pub async fn connect(&mut self, sessions: u32, depth: Depth) -> Opened {
        match self.ask(&Command::Connect { sessions, depth }).await {
            Answer::Opened(opened) => opened,
            other => panic!("not what was asked: {other:?}"),
        }
    }

    /// Loads the server.
    ///
    /// # Panics
    /// The generator has ended.
    pub async fn load(&mut self, load: Load) -> Loaded {
        match self.ask(&Command::Load(load)).await {
            Answer::Loaded(loaded) => loaded,
            other => panic!("not what was asked: {other:?}"),
        }
    }

    /// Measures while nothing is sent.
    ///
    /// # Panics
    /// The generator has ended.
    pub async fn rest(&mut self, seconds: f64) -> Use {
        match self.ask(&Command::Rest { seconds }).await {
            Answer::Rested(usage) => usage,
            other => panic!("not what was asked: {other:?}"),
        }
    }

    /// Runs `end`, which ends the clients' server, and waits until they are attached at these servers.
    ///
    /// # Panics
    /// They aren't attached within minutes.
    pub async fn move_when(&mut self, servers: Vec<Server>, end: impl Future<Output = ()>) -> Moved {
        self.0.tell(&json!(Command::Relocate { servers })).await;
        end.await;
        match self.answer().await {
            Answer::Relocated(moved) => moved,
            other => panic!("not what was asked: {other:?}"),
        }
    }

    /// Ends all sessions.
    ///
    /// # Panics
    /// The generator has ended.
    pub async fn disconnect(&mut self) {
        match self.ask(&Command::Disconnect).await {
            Answer::Disconnected => {}
            other => panic!("not what was asked: {other:?}"),
        }
    }
}
