//! The page of `up --demo`: built and served by Node, from the repository's folder `web/`.

use std::{
    env, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::output::Output;

/// Builds and serves the page, in the folder `web/`.
const TOOL: &str = "tools/page.mjs";
/// What the tool prints before the page's address.
const SERVED_AT: &str = "page: ";

/// A page that is being served. It is no longer when this is dropped.
pub(super) struct Page {
    #[expect(dead_code, reason = "held until the page is dropped, which ends it")]
    server: Child,
    url: String,
}

/// The page's addresses, or why there is none.
#[derive(Serialize)]
struct PageLine<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    urls: Option<[String; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Page {
    /// Builds and serves the page, and prints its progress. Takes a minute the first time.
    ///
    /// # Errors
    /// The repository, Node or npm is missing, or the build fails. The message is one line.
    pub(super) async fn serve(output: Output) -> Result<Self> {
        let web = find_web(&env::current_dir()?).with_context(|| {
            format!("the page is built in the repository: run this there (no web/{TOOL} in this folder or above)")
        })?;
        if !web.join("node_modules").exists() {
            output.print_text("page      installing what builds it (npm ci)");
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&web);
            let status = npm.stdin(Stdio::null()).stdout(Stdio::null()).status().await.map_err(missing)?;
            if !status.success() {
                bail!("npm cannot install what builds the page ({status})");
            }
        }
        output.print_text("page      building");
        let mut node = Command::new("node");
        node.args([TOOL, "--serve"]).current_dir(&web).kill_on_drop(true);
        let mut server = node.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(missing)?;
        let mut lines = BufReader::new(server.stdout.take().expect("it is piped")).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(url) = line.strip_prefix(SERVED_AT) {
                let url = url.split('#').next().unwrap_or_default().to_owned();
                return Ok(Self { server, url });
            }
        }
        bail!("the page cannot be built ({})", server.wait().await?)
    }

    /// Prints the addresses for two people in one browser.
    pub(super) fn print(&self, registry: &str, root: &str, output: Output) {
        let urls =
            [1, 2].map(|person| format!("{}#registry={registry}&root={root}&private&profile={person}", self.url));
        let text = format!("page      for two people, in two tabs:\n          {}\n          {}", urls[0], urls[1]);
        output.print(&text, &PageLine { event: "page", urls: Some(urls), error: None });
    }
}

/// Prints in one line why there is no page.
pub(super) fn print_failure(error: &anyhow::Error, output: Output) {
    let error = format!("{error:#}");
    output.print(&format!("page      {error}"), &PageLine { event: "page", urls: None, error: Some(&error) });
}

/// The folder `web/` of the repository that this folder is in. Its files are run, so they have to belong to this user or to
/// this folder's owner: anybody else could put them into a folder above, such as `/tmp`.
fn find_web(from: &Path) -> Option<PathBuf> {
    let owners = [rustix::process::getuid().as_raw(), from.metadata().ok()?.uid()];
    let is_own = |path: PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && owners.contains(&meta.uid()));
    let is_repository = |folder: &&Path| is_own(folder.join("Cargo.toml")) && is_own(folder.join("web").join(TOOL));
    from.ancestors().find(is_repository).map(|folder| folder.join("web"))
}

fn missing(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow::anyhow!("Node and npm build the page: install them (Debian: apt install nodejs npm)");
    }
    error.into()
}
