//! Where configuration comes from: defaults, then a TOML file, then `EMBED_WORKER__SECTION__KEY`, then flags.

use std::{fmt::Write, path::Path};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
    value::{Dict, Value},
};

use super::Config;
use embed_engine::settings::BatchPolicy;

/// Prefix of environment variables; `__` also separates sections from keys.
pub const ENV_PREFIX: &str = "EMBED_WORKER__";
/// Keys whose values are shown to nobody, and taken from the environment as they are there.
const SECRETS: [&str; 2] = ["nats.password", "nats.token"];

/// The configuration could not be read.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

/// The configuration, and where each value came from.
#[derive(Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    figment: Figment,
}

/// Puts the layers together.
///
/// `flags` holds what the command line set, as `section.key` and value.
///
/// # Errors
/// If the file cannot be read, a key is unknown, or a value does not fit; the message names the key.
pub fn load(file: Option<&Path>, flags: &[(&str, Value)]) -> Result<Loaded, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError(format!("{}: no such file", file.display())));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = with_variables(figment, Env::prefixed(ENV_PREFIX).split("__").iter());
    for (key, value) in flags {
        figment = figment.merge(Serialized::default(key, value).named("flags"));
    }
    let mut config: Config = figment.extract().map_err(|e| ConfigError(explain(e)))?;
    let decided = config.models.memory_budget.is_none() && config.batch.policy == BatchPolicy::Adaptive;
    config.engine.device.urgent_calls.get_or_insert(decided);
    if config.models.memory_budget.is_some() {
        config.engine.device.call_runners.get_or_insert(1);
    }
    config.validate().map_err(ConfigError)?;
    Ok(Loaded { config, figment })
}

/// Adds what variables say, by key. Where text is wanted, a value is what was typed, though it looks like a number: `007` is a password.
fn with_variables<K: std::fmt::Display>(figment: Figment, variables: impl Iterator<Item = (K, String)>) -> Figment {
    variables.fold(figment, |figment, (key, text)| {
        let key = key.to_string();
        let layer = |value: Value| Serialized::default(&key, value).named("`EMBED_WORKER__` environment variable(s)");
        let typed = layer(Value::from(text.clone()));
        if SECRETS.contains(&key.as_str()) {
            return figment.merge(typed);
        }
        let read = as_toml(&text);
        let is_text = read.as_str().is_none()
            && Figment::from(Serialized::defaults(Config::default())).merge(&typed).extract::<Config>().is_ok();
        figment.merge(if is_text { typed } else { layer(read) })
    })
}

/// What a variable says, read as the file's values are; what is no TOML is text.
///
/// figment's own reading of such values ends the program at some of them: at a backslash behind letters of several bytes, in quotes.
fn as_toml(text: &str) -> Value {
    let value = text.trim().parse().ok().filter(|value: &toml::Value| !value.is_datetime());
    value.and_then(|value| Value::serialize(value).ok()).unwrap_or_else(|| Value::from(text.to_owned()))
}

/// Whether what stands there may be, or hold, a secret, whatever it is instead of what it should be.
fn may_be_secret(key: &str) -> bool {
    ["nats", "registry"].contains(&key.split('.').next().unwrap_or_default())
}

trait Named {
    fn named(self, name: &'static str) -> NamedProvider<Self>
    where
        Self: Sized;
}

/// A provider under the name that `--print-config` shows.
struct NamedProvider<P>(P, &'static str);

impl<P: figment::Provider> Named for P {
    fn named(self, name: &'static str) -> NamedProvider<P> {
        NamedProvider(self, name)
    }
}

impl<P: figment::Provider> figment::Provider for NamedProvider<P> {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.1)
    }

    fn data(&self) -> figment::error::Result<figment::value::Map<figment::Profile, Dict>> {
        self.0.data()
    }
}

/// One line per problem: the key, what is wrong, the nearest known key, and where it was set.
fn explain(error: figment::Error) -> String {
    let lines: Vec<String> = error
        .into_iter()
        .map(|e| {
            let key = e.path.join(".");
            let source = e.metadata.as_ref().map(describe).unwrap_or_default();
            match &e.kind {
                Kind::UnknownField(field, known) => {
                    let section = if e.path.last() == Some(field) { &e.path[..e.path.len() - 1] } else { &e.path[..] };
                    let mut key = section.join(".");
                    if !key.is_empty() {
                        key.push('.');
                    }
                    let nearest = known
                        .iter()
                        .max_by(|a, b| strsim::jaro_winkler(a, field).total_cmp(&strsim::jaro_winkler(b, field)))
                        .map(|nearest| format!("; did you mean `{key}{nearest}`?"))
                        .unwrap_or_default();
                    format!("{key}{field}: unknown key{source}{nearest}")
                }
                kind if key.is_empty() => format!("{}{source}", unquoted(&kind.to_string())),
                Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if may_be_secret(&key) => {
                    let wanted = match expected.as_str() {
                        "a string" => "text in quotes",
                        structure if structure.starts_with("struct ") => "a section",
                        other => other,
                    };
                    format!("{key}: must be {wanted}{source}")
                }
                _ if may_be_secret(&key) => format!("{key}: has a value that it cannot have{source}"),
                kind => format!("{key}: {kind}{source}"),
            }
        })
        .collect();
    lines.join("\n")
}

/// Without the lines that a message quotes from the file: a password may stand there.
fn unquoted(message: &str) -> String {
    let quotes = |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    message.lines().filter(|line| !quotes(line)).collect::<Vec<_>>().join(": ")
}

fn describe(metadata: &figment::Metadata) -> String {
    match &metadata.source {
        Some(figment::Source::File(path)) => format!(" (in {})", path.display()),
        _ => format!(" (from {})", metadata.name),
    }
}

impl Loaded {
    /// The effective configuration as TOML, with the origin of every value that is not a default.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut config = self.config.clone();
        config.nats = config.nats.redacted();
        config.registry = config.registry.as_deref().map(embed_registry::masked);
        let value = toml::Table::try_from(&config).unwrap_or_default();
        self.print_table(&mut out, "", &value);
        out
    }

    fn print_table(&self, out: &mut String, prefix: &str, table: &toml::Table) {
        let is_section = |value: &toml::Value| value.is_table();
        for (key, value) in table.iter().filter(|(_, value)| !is_section(value)) {
            let path = format!("{prefix}{key}");
            let origin = match self.figment.find_metadata(&path) {
                Some(metadata) if !metadata.name.contains("Config") => describe(metadata).replace("from ", ""),
                _ => String::new(),
            };
            let comment = if origin.is_empty() { String::new() } else { format!("  #{origin}") };
            writeln!(out, "{key} = {value}{comment}").expect("writing to a string");
        }
        for (key, value) in table.iter() {
            if let toml::Value::Table(inner) = value {
                writeln!(out, "\n[{prefix}{key}]").expect("writing to a string");
                self.print_table(out, &format!("{prefix}{key}."), inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    fn load_text(text: &str, flags: &[(&str, Value)]) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.toml");
        fs::write(&file, text).unwrap();
        load(Some(&file), flags).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_override_the_file_which_overrides_defaults() {
        let loaded = load_text(
            "[batch]\nmax_texts = 8\nmax_wait = \"2ms\"\n[[variant]]\nmodel = \"m\"\n",
            &[("batch.max_texts", Value::from(16))],
        )
        .unwrap();
        assert_eq!(loaded.config.batch.max_texts, 16);
        assert_eq!(loaded.config.batch.max_wait, Duration::from_millis(2));
        assert_eq!(loaded.config.batch.max_tokens, 1024);
        assert_eq!(loaded.config.variant[0].version, "current");
        let printed = loaded.print();
        assert!(printed.contains("max_texts = 16  # (flags)"), "{printed}");
        assert!(printed.contains("worker.toml)"), "{printed}");
    }

    #[test]
    fn where_memory_is_counted_calls_have_one_runner_if_any() {
        let runners = |text: &str| {
            let device = load_text(text, &[]).unwrap().config.engine.device;
            (device.urgent_calls, device.call_runners)
        };
        assert_eq!(runners(""), (Some(true), None), "the model decides");
        let budget = "[models]\nmemory_budget = \"1 GiB\"\n";
        assert_eq!(runners(budget), (Some(false), Some(1)));
        let said = format!("{budget}[engine.device]\nurgent_calls = true\ncall_runners = 2\n");
        assert_eq!(runners(&said), (Some(true), Some(2)));
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let loaded = load_text("registry = \"/r\"\n[[variant]]\nmodel = \"m\"\n", &[]).unwrap();
        let again = load_text(&loaded.print(), &[]).unwrap();
        assert_eq!(again.config.variant, loaded.config.variant);
        assert_eq!(again.config.batch, loaded.config.batch);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let error = load_text("[batch]\nmax_text = 8\n", &[]).unwrap_err();
        assert!(error.contains("batch.max_text: unknown key") && error.contains("`batch.max_texts`"), "{error}");
    }

    #[test]
    fn no_secret_is_quoted() {
        for text in [
            "[nats]\npassword = \"s3cret\nuser = \"u\"\n",
            "[nats]\npassword = [\"s3cret\"]\n",
            "[nats]\ntoken = 73737\n",
            "[nats]\npassword = 73737.5\n",
            "[nats]\nuser = 73737\n",
            "[nats]\nserver = [\"nats://u:s3cret@h\"]\n",
            "[nats.password]\nx = \"s3cret\"\n",
            "nats = \"nats://u:s3cret@h\"\n",
            "registry = [\"s3://k:s3cret@b\"]\n",
        ] {
            let error = load_text(text, &[]).unwrap_err();
            assert!(!error.contains("s3cret") && !error.contains("73737"), "{error}");
            assert!(["line 2", "must be text in quotes", "nats: must be"].iter().any(|w| error.contains(w)), "{error}");
        }
        let text = "[nats]\nserver = \"nats://u:s3cret@h\"\npassword = \"s3cret\"\ntoken = \"s3cret\"\n";
        let printed = load_text(text, &[]).unwrap().print();
        assert!(!printed.contains("s3cret") && printed.contains("nats://h"), "{printed}");
    }

    #[test]
    fn the_registry_is_printed_without_secrets() {
        let printed = load_text("registry = \"s3://key:s3cret@b/p\"\n", &[]).unwrap().print();
        assert!(!printed.contains("s3cret") && printed.contains("s3://***@b/p"), "{printed}");
    }

    fn of_variables(variables: &[(&str, &str)]) -> Result<Config, String> {
        let defaults = Figment::from(Serialized::defaults(Config::default()));
        let variables = variables.iter().map(|(key, text)| (*key, (*text).to_owned()));
        with_variables(defaults, variables).extract().map_err(explain)
    }

    #[test]
    fn text_of_a_variable_is_what_was_typed() {
        for text in
            ["12345", "007", "1e5", "true", "-1", "0.10", "[1]", "{a=1}", "'q'", "\"q\"", "", "x", "1_000", "\u{e9}"]
        {
            let config = of_variables(&[("nats.password", text), ("nats.token", text)]).unwrap();
            assert_eq!((config.nats.password.as_deref(), config.nats.token.as_deref()), (Some(text), Some(text)));
        }
        let config = of_variables(&[
            ("nats.user", "007"),
            ("worker.id", "12345"),
            ("registry", "2026"),
            ("nats.tlsfirst", "true"),
            ("nats.password_file", "1"),
            ("batch.max_texts", "8"),
            ("batch.max_wait", "2ms"),
            ("limits.bulk_bytes", "1024"),
            ("engine.providers", "[\"cpu\"]"),
            ("variant", "[{model=\"7\"}]"),
        ]);
        let config = config.unwrap();
        assert_eq!((config.nats.user.as_deref(), config.worker.id.as_deref()), (Some("007"), Some("12345")));
        assert_eq!((config.registry.as_deref(), config.nats.password_file), (Some("2026"), Some("1".into())));
        assert!(config.nats.tlsfirst && config.variant[0].model == "7");
        assert_eq!((config.batch.max_texts, config.batch.max_wait), (8, Duration::from_millis(2)));
        assert_eq!((config.limits.bulk_bytes.as_u64(), config.engine.providers.len()), (1024, 1));
        let error = of_variables(&[("batch.max_texts", "many")]).unwrap_err();
        assert!(error.contains("batch.max_texts") && error.contains("many"), "{error}");
    }

    #[test]
    fn quotes_and_escapes_of_a_variable_are_those_of_the_file() {
        let id = |text: &str| of_variables(&[("worker.id", text)]).unwrap().worker.id;
        assert_eq!(id("\"\u{1d456}\u{a1}0\\\\ \""), Some("\u{1d456}\u{a1}0\\ ".to_owned()));
        assert_eq!(id("\"\u{1d456}\u{a1}0#\\ \""), Some("\"\u{1d456}\u{a1}0#\\ \"".to_owned()));
        assert_eq!(id("'q'"), Some("q".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn any_password_is_what_was_typed(password in "\\PC{0,40}") {
            let config = of_variables(&[("nats.password", &password)]).unwrap();
            proptest::prop_assert_eq!(config.nats.password, Some(password));
        }

        /// In quotes, with escapes, or in a list: whatever stands there is read, or refused by its key.
        #[test]
        fn any_value_is_read_or_refused(text in "[\\[{\"'\\\\]{0,3}\\PC{0,20}[\\]}\"'\\\\ ]{0,3}") {
            for key in ["nats.server", "worker.id", "batch.max_texts", "engine.providers", "variant"] {
                if let Err(error) = of_variables(&[(key, &text)]) {
                    proptest::prop_assert!(error.contains(key), "{}", error);
                }
            }
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        let error = load_text("[batch]\nmax_texts = \"many\"\n", &[]).unwrap_err();
        assert!(error.contains("batch.max_texts") && error.contains("many"), "{error}");
        let error = load_text("[limits]\nbulk_texts = 1\n", &[]).unwrap_err();
        assert!(error.contains("limits.bulk_texts") && error.contains("256"), "{error}");
    }
}
