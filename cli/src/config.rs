//! Reads a daemon's configuration: its file, then `CHAPPE_SECTION__KEY` in the environment, then `--set`.
//!
//! The daemons define the keys. Every error names the origin of the value, the key, and what is allowed. Relative paths
//! are relative to the file's folder.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_bootstrap::BootstrapConfig;
use chappe_node::NodeConfig;
use figment::{
    Error, Figment, Metadata, Profile, Provider,
    error::Kind,
    providers::{Env, Format as _, Serialized, Toml},
    util::nest,
    value::{Dict, Map, Value},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::log;

const ENV_PREFIX: &str = "CHAPPE_";

/// One option `--set section.key=value`.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    key: String,
    value: Value,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not section.key=value");
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        if !key.contains('.') || key.split('.').any(str::is_empty) {
            return Err(malformed());
        }
        // Numbers, booleans and [lists] are parsed, everything else is a string, as in the environment.
        let value = value.parse::<Value>().map_err(|_| malformed())?;
        Ok(Self { key: key.to_owned(), value })
    }
}

/// All `--set` options.
struct Settings<'a>(&'a [Setting]);

impl Provider for Settings<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("--set")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut all = Dict::new();
        for Setting { key, value } in self.0 {
            if let Value::Dict(_, one) = nest(key, value.clone()) {
                merge(&mut all, one);
            }
        }
        Ok(Map::from([(Profile::Default, all)]))
    }
}

/// Merges settings; the later one wins. Merging them in figment would lose their origin.
fn merge(all: &mut Dict, one: Dict) {
    for (key, value) in one {
        match (all.get_mut(&key), value) {
            (Some(Value::Dict(_, inner)), Value::Dict(_, more)) => merge(inner, more),
            (_, value) => {
                all.insert(key, value);
            }
        }
    }
}

/// The configuration of a daemon.
pub(crate) trait Config: Serialize + DeserializeOwned + Default {
    /// The first invalid key, and what is wrong with it.
    fn first_problem(&self) -> Option<(&'static str, String)>;

    /// The paths that are relative to the file's folder, with their keys.
    fn paths(&mut self) -> Vec<(&'static str, &mut PathBuf)>;
}

impl Config for NodeConfig {
    fn first_problem(&self) -> Option<(&'static str, String)> {
        let log = log::parse_filter(&self.node.log, "chappe_node").err().map(|problem| ("node.log", problem));
        log.or_else(|| self.check().err().map(|error| (error.key, error.problem.into_owned())))
    }

    fn paths(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let client = &mut self.client;
        let mut paths = vec![("node.data_dir", &mut self.node.data_dir)];
        paths.extend(client.page.as_mut().map(|path| ("client.page", path)));
        paths.extend(client.tls_cert.as_mut().map(|path| ("client.tls_cert", path)));
        paths.extend(client.tls_key.as_mut().map(|path| ("client.tls_key", path)));
        paths.extend(client.acme.directory_ca.as_mut().map(|path| ("client.acme.directory_ca", path)));
        paths
    }
}

impl Config for BootstrapConfig {
    fn first_problem(&self) -> Option<(&'static str, String)> {
        let log =
            log::parse_filter(&self.bootstrap.log, "chappe_bootstrap").err().map(|problem| ("bootstrap.log", problem));
        log.or_else(|| self.check().err().map(|error| (error.key, error.problem.into_owned())))
    }

    fn paths(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let federation = &mut self.federation;
        let mut paths = vec![
            ("bootstrap.data_dir", &mut self.bootstrap.data_dir),
            ("federation.delegation", &mut federation.delegation),
            ("federation.online_key", &mut federation.online_key),
            ("federation.beacon", &mut federation.beacon),
            ("federation.revocations", &mut federation.revocations),
        ];
        paths.extend(self.storage.ca.as_mut().map(|path| ("storage.ca", path)));
        paths
    }
}

/// Whether to read the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Environment {
    /// The environment overrides the file, and the command line overrides the environment.
    Read,
    /// The environment is for other daemons of this process.
    Ignored,
}

/// Checks the text of a config file that is to be written to `file`.
pub(crate) fn check_text<C: Config>(text: &str, file: &Path) -> Result<()> {
    let figment = Figment::from(Toml::string(text));
    let config: C = figment.extract().map_err(|error| explain_error::<C>(&figment, file, &error))?;
    match config.first_problem() {
        Some((key, problem)) => bail!("{key}: {problem}; nothing was written"),
        None => Ok(()),
    }
}

/// Reads a daemon's configuration.
pub(crate) fn load<C: Config>(file: &Path, environment: Environment, settings: &[Setting]) -> Result<C> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the config file {}", file.display()))?;
    let mut figment = Figment::from(Toml::string(&text));
    if environment == Environment::Read {
        reject_misspelled_variables(
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
            &keys_of::<C>(),
        )?;
        let keys = Env::prefixed(ENV_PREFIX).filter(|key| key.as_str().contains("__"));
        figment = figment.merge(keys.split("__"));
    }
    let figment = figment.merge(Settings(settings));
    // Reports only the first of several errors.
    let mut config: C = figment.extract().map_err(|error| explain_error::<C>(&figment, file, &error))?;
    let origin_of = |key: &str| {
        figment.find_metadata(key).map_or_else(|| file.display().to_string(), |found| origin(found, file, key))
    };
    // Before the other checks, which would take an empty path for a file. Joining one would give the folder itself.
    if let Some((key, _)) = config.paths().into_iter().find(|(_, path)| path.as_os_str().is_empty()) {
        bail!("{}: {key}: the path is empty; set a path, or remove the key", origin_of(key));
    }
    if let Some((key, problem)) = config.first_problem() {
        bail!("{}: {key}: {problem}", origin_of(key));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    for (_, path) in config.paths() {
        *path = folder.join(&*path);
    }
    Ok(config)
}

/// Environment variables of the binary that are not configuration keys.
const OWN_VARIABLES: [&str; 2] = ["CHAPPE_LOG", "CHAPPE_SNAPSHOT"];

/// All keys as `section.key`, or `section.table.key`.
pub(crate) fn keys_of<C: Config>() -> Vec<String> {
    let default = serde_json::to_value(C::default()).expect("a configuration is JSON");
    keys_in("", &default)
}

fn keys_in(path: &str, value: &serde_json::Value) -> Vec<String> {
    let Some(table) = value.as_object() else { return vec![path.to_owned()] };
    let of_table = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
    table.iter().flat_map(|(key, value)| keys_in(&of_table(key), value)).collect()
}

/// Maximal number of wrong letters in a misspelled key.
const MAX_WRONG_LETTERS: usize = 2;

/// Rejects environment variables that are almost a key, because their value would be ignored. Other variables with the
/// prefix are not ours: for a service named `chappe`, Kubernetes sets `CHAPPE_SERVICE_HOST` and others. Variables with
/// a section are checked with the configuration.
fn reject_misspelled_variables(names: impl Iterator<Item = String>, keys: &[String]) -> Result<()> {
    for name in names {
        let upper = name.to_ascii_uppercase();
        let has_prefix = upper.starts_with(ENV_PREFIX) && !OWN_VARIABLES.contains(&upper.as_str());
        let is_key = upper.strip_prefix(ENV_PREFIX).is_some_and(|rest| rest.contains("__"));
        if !has_prefix || is_key {
            continue;
        }
        // Ignore underscores, which are mistaken most often.
        let distance = |key: &String| strsim::damerau_levenshtein(&key.to_uppercase().replace('.', "_"), &upper);
        let with_prefix = |key: &String| format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"));
        let by_key =
            keys.iter().map(|key| (distance(&format!("{ENV_PREFIX}{key}")), MAX_WRONG_LETTERS, with_prefix(key)));
        // These names are short: with two wrong letters, many words would match.
        let own = OWN_VARIABLES.map(|own| (strsim::damerau_levenshtein(own, &upper), 1, own.to_owned()));
        let near = by_key.chain(own).filter(|(distance, most, _)| distance <= most).min();
        if let Some((_, _, near)) = near {
            bail!(
                "unknown variable {name} in the environment; did you mean {near}? (section and key are separated by two underscores)"
            );
        }
    }
    Ok(())
}

/// The origin of the value of `key`.
fn origin(metadata: &Metadata, file: &Path, key: &str) -> String {
    if metadata.name.starts_with("--set") {
        "--set".to_owned()
    } else if metadata.name.contains("environment") {
        format!("{ENV_PREFIX}{} in the environment", key.to_uppercase().replace('.', "__"))
    } else {
        file.display().to_string()
    }
}

fn explain_error<C: Config>(figment: &Figment, file: &Path, error: &Error) -> anyhow::Error {
    let metadata = error.metadata.as_ref();
    let mut path = error.path.clone();
    let found = metadata.map(|metadata| origin(metadata, file, &path.join(".")));
    let mut text = found.unwrap_or_else(|| file.display().to_string());
    let written = match &error.kind {
        Kind::UnknownField(name, allowed) => {
            if path.last().is_some_and(|last| last == name) {
                path.pop();
            }
            let section = path.join(".");
            let (key, place) = if section.is_empty() {
                (name.clone(), "the sections".to_owned())
            } else {
                (format!("{section}.{name}"), format!("the keys of [{section}]"))
            };
            // For an unknown key, figment only knows the origin of its section.
            if let Some(found) = figment.find_metadata(&key) {
                text = origin(found, file, &key);
            }
            write!(text, ": unknown key {key}; {place} are {}", allowed.join(", "))
        }
        kind => {
            let key = if path.is_empty() { String::new() } else { format!(" {}:", path.join(".")) };
            write!(text, ":{key} {kind}{}", example::<C>(&path))
        }
    };
    written.map_or_else(|error| anyhow!(error), |()| anyhow!(text))
}

/// Example values for keys without a default, or with an uninformative one.
const EXAMPLES: &[(&str, &str)] = &[
    ("node.region", r#""eu-west""#),
    ("node.contact", r#""Erika Mustermann, erika@example.org""#),
    ("node.abuse_contact", r#""abuse@example.org""#),
    ("client.urls", r#"["wss://node.example.org"]"#),
    ("client.page", r#""chappe.html""#),
    ("client.tls_cert", r#""fullchain.pem""#),
    ("client.tls_key", r#""privkey.pem""#),
    ("client.trusted_proxies", r#"["127.0.0.1/32"]"#),
    ("client.acme.contact", r#""erika@example.org""#),
    ("client.acme.directory_ca", r#""ca.pem""#),
    ("client.acme.profile", r#""shortlived""#),
    ("client.acme.challenge", r#""auto", "http-01" or "tls-alpn-01""#),
    ("federation.roots", r#"["v2QMrXxJhx23z5wSvIBBVgNxHzazz0Rp_0KbIfid-Jk"]"#),
    ("federation.id", r#""c8b1d2a07f3e4d5c9a6b8e7f0d1c2b3a""#),
    ("federation.issuers", r#"["v2QMrXxJhx23z5wSvIBBVgNxHzazz0Rp_0KbIfid-Jk"]"#),
    ("federation.allow", r#"["F8cTagOZCMHFf5bRobXUl0a1jfovZgfRvMFDPw5Do2M"]"#),
    ("federation.ticket", "the text that `chappe node invite` prints, in quotes"),
    ("federation.exempt", r#"["10.0.0.0/8"]"#),
    ("federation.advertise", r#"["203.0.113.7:8711"]"#),
    ("registry.urls", r#"["https://registry.example.org"]"#),
    ("registry.dns", "[\"chappe.example.org\"]"),
    ("admin.listen", r#""127.0.0.1:8712""#),
    ("ice.servers", r#"[{ urls = ["stun:stun.example.org"] }]"#),
    ("ice.servers.urls", r#"["stun:stun.example.org"]"#),
    ("ice.servers.secret", r#""the secret that the server knows""#),
    ("turn.listen", r#"["203.0.113.7:3478"]"#),
    ("turn.external", r#"["203.0.113.7"]"#),
    ("budget.monthly_bytes", "1000000000000"),
    ("budget.bytes_per_second", "12500000"),
    ("budget.interfaces", r#"["eth0"]"#),
    ("budget.counts", r#""both" or "sent""#),
    ("turn.allowed_peers", r#"["10.0.0.0/8"]"#),
    ("turn.denied_peers", r#"["198.51.100.0/24"]"#),
    ("limits.exempt", r#"["10.0.0.0/8"]"#),
    ("http.cors_origins", r#"["https://example.org"]"#),
    ("http.trusted_proxies", r#"["127.0.0.1/32"]"#),
    ("storage.url", r#""postgres://chappe@localhost/chappe""#),
    ("storage.ca", r#""ca.pem""#),
    ("federation.admission", r#""open", "invite" or "allowlist""#),
];

/// An example for the key, or its default.
fn example<C: Config>(path: &[String]) -> String {
    // Indices in lists are not part of the key.
    let key: Vec<_> = path.iter().filter(|part| part.parse::<usize>().is_err()).map(String::as_str).collect();
    let key = key.join(".");
    let example = EXAMPLES.iter().find(|(known, _)| *known == key).map(|(_, value)| (*value).to_owned());
    let shown = example.or_else(|| {
        let default = Figment::from(Serialized::defaults(C::default())).find_value(&key);
        default.ok().and_then(|value| toml_text(&value)).filter(|text| !matches!(text.as_str(), "[]" | "\"\""))
    });
    shown.map_or_else(String::new, |shown| format!("; write a value such as {shown}"))
}

fn toml_text(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => number.to_u128().map(|number| number.to_string())?,
        Value::Array(_, items) => {
            let items: Option<Vec<_>> = items.iter().map(toml_text).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Char(..) | Value::Dict(..) | Value::Empty(..) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_node(text: &str, settings: &[&str]) -> Result<NodeConfig> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text).expect("a writable folder");
        // A node that listens on all addresses needs to know its public one.
        let private = ["client.listen=127.0.0.1:1", "federation.listen=127.0.0.1:2"];
        let settings = private.iter().chain(settings).map(|text| text.parse().expect("a setting"));
        let settings: Vec<Setting> = settings.collect();
        load(&file, Environment::Ignored, &settings)
    }

    fn message(text: &str, settings: &[&str]) -> String {
        format!("{:#}", load_node(text, settings).expect_err("an error"))
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let config = load_node(
            "[client]\nlisten = '127.0.0.1:3'\nmax_connections = 3\n[times]\nidle = '5s'",
            &["client.listen=127.0.0.1:4", "node.region=eu-west", "registry.urls=[\"http://a\", \"http://b\"]"],
        )
        .expect("a configuration");
        assert_eq!(config.client.listen, "127.0.0.1:4".parse().expect("an address"));
        assert_eq!(config.client.max_connections, 3);
        assert_eq!(config.node.region, "eu-west");
        assert_eq!(config.registry.urls, ["http://a", "http://b"]);
        assert_eq!(config.times.idle, std::time::Duration::from_secs(5));
    }

    #[test]
    fn a_relative_path_is_relative_to_the_file() {
        let config = load_node("[node]\ndata_dir = 'here'", &[]).expect("a configuration");
        assert!(config.node.data_dir.is_absolute() && config.node.data_dir.ends_with("here"));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_valid_ones() {
        let text = message("[client]\nlisten = '127.0.0.1:1'\nlissten = 1", &[]);
        assert!(text.contains("node.toml: unknown key client.lissten;"), "{text}");
        assert!(text.contains("the keys of [client] are listen, urls, max_connections"), "{text}");
        let text = message("[clients]\nlisten = '127.0.0.1:1'", &[]);
        assert!(text.contains("node.toml: unknown key clients; the sections are node, client"), "{text}");
        let text = message("", &["client.lissten=1"]);
        assert!(text.contains("--set: unknown key client.lissten;"), "{text}");
    }

    #[test]
    fn an_invalid_value_is_named_with_the_valid_ones() {
        let text = message("[client]\nmax_connections = 'many'", &[]);
        assert!(text.contains("node.toml: client.max_connections: ") && text.contains("such as 18000"), "{text}");
        let text = message("", &["client.listen=localhost"]);
        assert!(text.contains("--set: client.listen: ") && text.contains("such as \"0.0.0.0:8710\""), "{text}");
        let text = message("", &["times.idle=soon"]);
        assert!(text.contains("--set: times.idle: ") && text.contains("such as \"1m\""), "{text}");
        let text = message("[ice]\ncredential_lifetime = '2h'", &[]);
        assert!(text.contains("node.toml: ice.credential_lifetime: at most 1h is allowed"), "{text}");
        let text = message("[client\n", &[]);
        assert!(text.contains("node.toml: ") && text.contains("line 1"), "{text}");
    }

    #[test]
    fn every_key_has_an_example_value() {
        for key in keys_of::<NodeConfig>() {
            let text = message("", &[&format!("{key}=[[1]]")]);
            let (_, example) = text.split_once("such as ").unwrap_or_else(|| panic!("{key}: {text}"));
            assert!(!example.is_empty() && !matches!(example, "[]" | "\"\""), "{key}: {text}");
        }
        // The examples are valid values.
        for (key, value) in EXAMPLES.iter().filter(|(key, _)| !key.starts_with("ice.servers.")) {
            if !keys_of::<NodeConfig>().contains(&(*key).to_owned()) || value.contains('`') || value.contains(" or ") {
                continue;
            }
            let set = format!("{key}={value}");
            let Err(error) = load_node("", &[&set]) else { continue };
            let text = format!("{error:#}");
            assert!(!text.contains("such as"), "{set}: {text}");
        }
    }

    #[test]
    fn a_variable_that_is_no_key_is_refused_with_the_one_that_is_meant() {
        let keys = keys_of::<NodeConfig>();
        let told = |name: &str| {
            reject_misspelled_variables([name.to_owned()].into_iter(), &keys).map_err(|error| error.to_string())
        };
        for (name, meant) in [
            ("CHAPPE_CLIENT_LISTEN", "CHAPPE_CLIENT__LISTEN"),
            ("CHAPPE_LIMITS_MEMORY_BUDGET", "CHAPPE_LIMITS__MEMORY_BUDGET"),
            ("chappe_client_listen", "CHAPPE_CLIENT__LISTEN"),
            ("CHAPPE_CLIENT_LISTN", "CHAPPE_CLIENT__LISTEN"),
            ("CHAPPE_LOGS", "CHAPPE_LOG"),
        ] {
            let text = told(name).expect_err("no key");
            assert!(text.contains(name) && text.contains(&format!("did you mean {meant}?")), "{text}");
        }
        for name in ["CHAPPE_LOG", "CHAPPE_CLIENT__LISTEN", "PATH", "CHAPPERONE", "CHAPPE_IMAGE"] {
            assert_eq!(told(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn kubernetes_service_variables_do_not_prevent_a_start() {
        let of_service = [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTP",
            "PORT",
            "PORT_8700_TCP",
            "PORT_8700_TCP_PROTO",
            "PORT_8700_TCP_PORT",
            "PORT_8700_TCP_ADDR",
        ];
        for service in ["CHAPPE", "CHAPPE_NODE", "CHAPPE_CLIENT", "CHAPPE_REGISTRY", "CHAPPE_HTTP", "CHAPPE_LOG"] {
            for rest in of_service {
                let name = format!("{service}_{rest}");
                for keys in [keys_of::<NodeConfig>(), keys_of::<BootstrapConfig>()] {
                    reject_misspelled_variables([name.clone()].into_iter(), &keys).expect("somebody else's");
                }
            }
        }
    }

    #[test]
    fn an_empty_path_is_no_folder() {
        for settings in [&["client.tls_cert=\"\"", "client.tls_key=key.pem"][..], &["client.tls_cert=\"\""]] {
            let text = message("", settings);
            let told = "--set: client.tls_cert: the path is empty; set a path, or remove the key";
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<NodeConfig>(Path::new("/nowhere/node.toml"), Environment::Ignored, &[]);
        let text = format!("{:#}", error.expect_err("an error"));
        assert!(text.contains("/nowhere/node.toml"), "{text}");
    }

    #[test]
    fn an_argument_that_is_no_setting_is_refused() {
        for text in ["", "a.b", "a=1", ".b=1", "a.=1"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
