//! The status page as a browser shows it.

use std::{fs, path::Path, process::Command};

use chappe_common::{list_request::Load, signed::Signed};
use reqwest::StatusCode;

use crate::fixture::{Fixture, TestNode, millis};

/// The profile setting that disables scripts.
const NO_SCRIPTS: &str = r#"{"profile":{"default_content_setting_values":{"javascript":2}}}"#;

/// Opens a page in a real browser with scripts disabled.
fn browse(folder: &Path, args: &[&str], url: &str) -> Option<String> {
    if !Path::new("/usr/bin/chromium").exists() {
        eprintln!("skipped: no browser here (Debian: chromium)");
        return None;
    }
    let profile = folder.join("profile");
    fs::create_dir_all(profile.join("Default")).expect("a writable folder");
    fs::write(profile.join("Default/Preferences"), NO_SCRIPTS).expect("a writable folder");
    let mut chromium = Command::new("/usr/bin/chromium");
    // The browser's sandbox refuses to run as root.
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu"]).args(args);
    chromium.arg(format!("--user-data-dir={}", profile.display())).env("HOME", folder).arg(url);
    let output = chromium.output().expect("a browser that starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_sums_up_in_a_browser_without_scripts() {
    let fixture = Fixture::start().await;
    let nodes: Vec<_> = (1..=5).map(TestNode::start).collect();
    let regions = ["eu-west", "eu-west", "us-east", "<b>&\"'", ""];
    for (node, region) in nodes.iter().zip(regions) {
        let mut record = fixture.record(node, 1, 1).into_value();
        record.region = region.to_owned();
        let record = Signed::sign(record, &node.key).expect("a record within its bounds");
        assert_eq!(fixture.register(&record).await.0, StatusCode::OK);
        assert!(fixture.ask_for_all(&node.key, millis(), Load::Busy).await.is_ok());
    }
    let response = fixture.http.get(&fixture.base).send().await.expect("an answer");
    let policy = response.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    let html = response.text().await.expect("text");
    assert!(!html.contains("<b>") && html.contains("&lt;b&gt;&amp;&quot;"), "{html}");
    assert!(!html.contains(&nodes[0].addr.to_string()), "no node's address");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(dom) = browse(folder.path(), &["--dump-dom"], &fixture.base) else { return };
    for (name, count) in [("eu-west", 2), ("us-east", 1), ("&lt;b&gt;&amp;\"'", 1), ("not said", 1), ("always", 5)] {
        let row = dom.split("<tr").find(|row| row.contains(&format!(">{name}</th>")));
        let row = row.unwrap_or_else(|| panic!("{name} is not in {dom}"));
        assert!(row.contains(&format!("<td>{count}</td>")), "{name}: {row}");
    }
    let out = std::env::var("CHAPPE_SCREENSHOTS").map_or_else(|_| folder.path().to_owned(), Into::into);
    for (name, size) in [("desktop", "1200,900"), ("phone", "390,1400")] {
        let file = out.join(format!("{name}.png"));
        let args = [format!("--screenshot={}", file.display()), format!("--window-size={size}")];
        browse(folder.path(), &args.each_ref().map(String::as_str), &fixture.base);
        assert!(fs::metadata(&file).is_ok_and(|file| file.len() > 10_000), "a page with something on it");
    }
}
