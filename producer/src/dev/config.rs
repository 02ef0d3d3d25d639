//! The configuration files of the local stack: the server's, and the worker's where variants are named.

use std::path::Path;

use embed_schemas::Precision;
use serde::Serialize;

use super::Options;
use crate::Error;
use embed_control::{provision::ModelVariants, registry::RegisteredModel};

/// The file of mappings, beside the server's configuration.
pub(super) const MAPPINGS_FILE: &str = "embed-mappings.conf";
/// User of the system account.
pub(super) const SYSTEM_USER: &str = "sys";

/// What goes into the server's configuration.
pub(super) struct ServerConfig<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) ports_dir: &'a Path,
    /// 0 for any.
    pub(super) port: u16,
    pub(super) max_payload: u32,
    pub(super) system_password: &'a str,
}

/// The server's configuration: whoever comes without credentials is in the global account, as on a server without any
/// configuration; the system account is for `embed route`.
pub(super) fn server(config: &ServerConfig<'_>) -> String {
    // The configuration's own escapes are JSON's, as far as paths need them.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let ServerConfig { data_dir, ports_dir, port, max_payload, system_password } = config;
    let port = if *port == 0 { "-1".to_owned() } else { port.to_string() };
    format!(
        "# Written by `embed dev` at every start.\n\
         server_name: embed-dev\n\
         listen: \"127.0.0.1:{port}\"\n\
         http: \"127.0.0.1:-1\"\n\
         max_payload: {max_payload}\n\
         ping_interval: \"2s\"\n\
         ping_max: 2\n\
         ports_file_dir: {}\n\
         jetstream {{ store_dir: {} }}\n\
         authorization {{ users: [ {{user: \"embed\", password: \"embed\"}} ] }}\n\
         no_auth_user: \"embed\"\n\
         accounts {{ $SYS {{ users: [ {{user: \"{SYSTEM_USER}\", password: \"{system_password}\"}} ] }} }}\n\
         mappings {{\n  include \"{MAPPINGS_FILE}\"\n}}\n",
        quoted(ports_dir),
        quoted(&data_dir.join("nats")),
    )
}

#[derive(Serialize)]
struct WorkerConfig<'a> {
    variant: Vec<VariantConfig<'a>>,
}

#[derive(Serialize)]
struct VariantConfig<'a> {
    model: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<Precision>,
}

/// Writes the worker's configuration if variants are named, and returns the arguments that it takes. A variant that is called
/// after a precision of its model has that precision.
pub(super) fn worker(
    options: &Options,
    models: &[RegisteredModel],
    variants: &[ModelVariants],
    data_dir: &Path,
) -> Result<Vec<String>, Error> {
    if options.variants.is_empty() {
        return Ok(Vec::new());
    }
    if options.worker_args.iter().any(|arg| arg == "--config" || arg.starts_with("--config=")) {
        return Err(Error::Dev(
            "--variant writes a configuration for the worker, so --worker-arg cannot name another: leave out one of the two"
                .to_owned(),
        ));
    }
    let mut all = Vec::new();
    for ModelVariants { model, variants } in variants {
        let artefacts = models.iter().find(|m| m.slug() == model).map_or(&[][..], |m| &m.metadata.artefacts);
        for name in variants {
            let named = options.variants.iter().find(|(m, variant, _)| m == model && variant == name);
            let mut precisions = artefacts.iter().map(|artefact| artefact.precision);
            all.push(VariantConfig {
                model: model.as_str(),
                name: name.as_str(),
                version: named.and_then(|(_, _, version)| version.as_deref()),
                precision: precisions.find(|precision| precision.variant() == *name),
            });
        }
    }
    let path = data_dir.join("worker.toml");
    let text = toml::to_string(&WorkerConfig { variant: all }).map_err(|error| Error::Dev(error.to_string()))?;
    std::fs::write(&path, format!("# Written by `embed dev --variant`.\n{text}")).map_err(Error::file(&path))?;
    Ok(vec!["--config".to_owned(), path.to_string_lossy().into_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_quotes_paths() {
        let text = server(&ServerConfig {
            data_dir: Path::new("/a b\"c"),
            ports_dir: Path::new("/p"),
            port: 0,
            max_payload: 9,
            system_password: "x",
        });
        assert!(text.contains("listen: \"127.0.0.1:-1\""), "{text}");
        assert!(text.contains(r#"store_dir: "/a b\"c/nats""#), "{text}");
    }
}
