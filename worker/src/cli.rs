//! The command line of `embed-worker`.

use std::{
    future::Future,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use embed_connect::ConnectSettings;
use embed_engine::{
    engine::{attention, library, telemetry},
    model::{Activities, Loader, ResolvedModel},
    threads::cores,
};
use figment::value::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    app::{self, Shutdown},
    config::{Config, VariantConfig, load},
    logging::{self, LogFormat},
    observe::probe,
    registry::{self, ModelsArgs},
    serving::{Selected, Selection, VariantSpec, select},
};

/// Embeds texts that arrive on NATS subjects.
#[derive(Debug, Parser)]
#[command(name = "embed-worker", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop (SIGTERM, SIGINT)
    Run(Box<RunArgs>),
    /// Check the configuration, the registry and every model, without serving
    Check(Box<RunArgs>),
    /// Ask a running worker whether it is ready; exits with 1 and the reasons if not
    Health(HealthArgs),
    /// The versions in the model registry: list, publish, verify, make current
    Models(ModelsArgs),
    #[command(flatten)]
    Shell(embed_shell::ShellCommand),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration file, TOML
    #[arg(long, short = 'c', env = "EMBED_WORKER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model registry: a path, file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    registry: Option<String>,
    /// Serve this model (again for more); all of the registry if left out. NAME defaults to the precision
    #[arg(long = "variant", value_name = "MODEL[=NAME]")]
    variants: Vec<String>,
    /// Where to serve metrics and health; port 0 takes a free one [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<SocketAddr>,
    /// This worker's id, unique among all workers
    #[arg(long)]
    worker_id: Option<String>,
    /// Print the effective configuration, with where each value comes from, and stop
    #[arg(long)]
    print_config: bool,
    /// Print one line of JSON to standard output when ready
    #[arg(long)]
    json: bool,
    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(flatten)]
    nats: ConnectSettings,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// Configuration file of the worker, TOML
    #[arg(long, short = 'c', env = "EMBED_WORKER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where it serves metrics and health [default: http.addr of the configuration]
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<SocketAddr>,
    /// Only whether it is alive, as while it loads its models
    #[arg(long)]
    alive: bool,
    /// How long to wait for the answer
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    timeout: Duration,
}

impl Cli {
    /// Runs the command. 0: done; 1: failed, with the reason on standard error.
    pub fn run(self) -> ExitCode {
        let serves = matches!(self.command, Command::Run(_));
        let result = match self.command {
            Command::Run(args) => args.run(false),
            Command::Check(args) => args.run(true),
            Command::Health(args) => args.run(),
            Command::Models(args) => run_models(&args),
            Command::Shell(command) => command.run(Self::command()).map_err(Into::into),
        };
        let code = u8::from(result.is_err());
        if let Err(error) = result {
            // The errors' messages hold their causes. Nothing can be done about a standard error that is closed.
            let _ = writeln!(io::stderr(), "embed-worker: error: {error}");
        }
        if serves {
            leave(code)
        }
        code.into()
    }
}

/// Ends the process without its libraries' destructors. CUDA's driver shuts down in one of them, and what a thread that is still there
/// fails to free then would make a crash of an orderly end.
fn leave(code: u8) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: it takes a number, may be called at any time from any thread, and does not return. What the process has to say and to give
    // back is out: logs are not buffered, and the connections to NATS have been flushed.
    unsafe { libc::_exit(code.into()) }
}

impl RunArgs {
    fn run(self, check: bool) -> anyhow::Result<()> {
        let mut loaded = load::load(self.config.as_deref(), &self.flags())?;
        self.apply_lists(&mut loaded.config)?;
        if self.print_config {
            io::stdout().write_all(loaded.print().as_bytes())?;
            return Ok(());
        }
        logging::start(self.log_format);
        let config = loaded.config;
        // SAFETY: this is the main thread, and no other has been started yet.
        unsafe { telemetry::disable() };
        if config.wants_devices() {
            // SAFETY: this is the main thread, and no other has been started yet.
            unsafe { attention::choose(&config.engine.devices) };
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if check {
            return runtime.block_on(check_models(&config));
        }
        let json = self.json;
        let on_ready = move |ready: &app::Ready| {
            if json {
                let line = serde_json::to_string(ready).expect("the ready line has string keys");
                // Whoever started us may have stopped listening; we serve all the same.
                let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
            }
        };
        let result = runtime.block_on(async { app::run(config, on_ready, shutdown_signals()?).await });
        // Threads that are still in a run must not keep the process from ending.
        runtime.shutdown_background();
        Ok(result?)
    }

    /// What the command line sets, by configuration key.
    fn flags(&self) -> Vec<(&'static str, Value)> {
        let mut flags: Vec<(&'static str, Value)> = Vec::new();
        let mut set = |key, value: Option<String>| flags.extend(value.map(|value| (key, Value::from(value))));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        set("registry", self.registry.clone());
        set("http.addr", self.metrics_addr.map(|addr| addr.to_string()));
        set("worker.id", self.worker_id.clone());
        set("nats.server", self.nats.server.clone());
        set("nats.user", self.nats.user.clone());
        set("nats.password", self.nats.password.clone());
        set("nats.password_file", path(&self.nats.password_file));
        set("nats.token", self.nats.token.clone());
        set("nats.token_file", path(&self.nats.token_file));
        set("nats.creds", path(&self.nats.creds));
        set("nats.nkey", path(&self.nats.nkey));
        set("nats.user_jwt_file", path(&self.nats.user_jwt_file));
        set("nats.tlscert", path(&self.nats.tlscert));
        set("nats.tlskey", path(&self.nats.tlskey));
        set("nats.tlsca", path(&self.nats.tlsca));
        set("nats.js_domain", self.nats.js_domain.clone());
        set("nats.js_api_prefix", self.nats.js_api_prefix.clone());
        set("nats.inbox_prefix", self.nats.inbox_prefix.clone());
        set("nats.context", self.nats.context.clone());
        if self.nats.tlsfirst {
            flags.push(("nats.tlsfirst", Value::from(true)));
        }
        flags
    }

    /// Variants given on the command line replace those of the file.
    fn apply_lists(&self, config: &mut Config) -> anyhow::Result<()> {
        if self.variants.is_empty() {
            return Ok(());
        }
        config.variant = self
            .variants
            .iter()
            .map(|variant| {
                let (model, name) = variant.split_once('=').map_or((variant.as_str(), None), |(m, n)| (m, Some(n)));
                anyhow::ensure!(!model.is_empty(), "--variant {variant:?}: the model's name is missing");
                Ok(VariantConfig { name: name.map(str::to_owned), ..VariantConfig::of(model.to_owned()) })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(())
    }
}

impl HealthArgs {
    fn run(self) -> anyhow::Result<()> {
        let addr = match self.metrics_addr {
            Some(addr) => addr,
            None => load::load(self.config.as_deref(), &[])?.config.http.addr,
        };
        let path = if self.alive { "/healthz" } else { "/readyz" };
        writeln!(io::stdout(), "{}", probe(addr, path, self.timeout)?)?;
        Ok(())
    }
}

fn run_models(args: &ModelsArgs) -> anyhow::Result<()> {
    if args.registry().is_none() {
        let message = "--registry <URL> is missing; name it, or set EMBED_REGISTRY";
        Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(registry::run(args))
}

async fn check_models(config: &Config) -> anyhow::Result<()> {
    let source = app::open_source(config)?;
    let Selection { variants, unnamed } = select(&source, config).await?;
    let loader = Loader::new(source, Arc::new(app::onnx_runtime(config)), Activities::default());
    let library = library::find(config.engine.library.as_deref())?;
    let mut out = io::stdout();
    writeln!(out, "ONNX Runtime  {}", library.display())?;
    writeln!(out, "cores         {}", cores())?;
    let (count, mut failed) = (variants.len() + unnamed.len(), Vec::new());
    for Selected { spec: VariantSpec { model, variant, default, .. }, resolved } in variants {
        let loaded = match resolved {
            Ok(resolved) => {
                loader.load(&resolved, false).await.map(|loaded| (resolved, loaded.report)).map_err(Into::into)
            }
            Err(error) => Err(anyhow::Error::from(error)),
        };
        let (ResolvedModel { metadata, .. }, report) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                writeln!(out, "failed        {model} {variant}: {error}")?;
                failed.push(if count == 1 { error } else { anyhow::anyhow!("{model} {variant}: {error}") });
                continue;
            }
        };
        writeln!(
            out,
            "ok            {model} {variant} {}: version {}, {} dimensions, {}",
            if default { "(default)" } else { "" },
            metadata.version,
            metadata.dimension,
            metadata.space
        )?;
        writeln!(out, "              runs on {}", report.describe())?;
        for skipped in &report.skipped {
            writeln!(out, "              not on {}: {}", skipped.provider, skipped.reason)?;
        }
    }
    for one in unnamed {
        writeln!(out, "failed        {one}")?;
        failed.push(anyhow::anyhow!("{one}"));
    }
    // A worker would serve the others, and be ready unless its configuration names what failed; whoever checks wants to know.
    failed.into_iter().next().map_or(Ok(()), Err)
}

/// The first SIGTERM or SIGINT stops the worker, the second ends it at once.
fn shutdown_signals() -> io::Result<Shutdown<impl Future<Output = ()>, impl Future<Output = ()>>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (count, mut signals) = watch::channel(0u32);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    let mut again = signals.clone();
    let stop = async move {
        let _ = signals.wait_for(|count| *count >= 1).await;
    };
    let hurry = async move {
        let _ = again.wait_for(|count| *count >= 2).await;
    };
    Ok(Shutdown { stop, hurry })
}
