//! Texts in, vectors out, in one process: tokenize, batch, run ONNX models, load and verify them.
//!
//! Knows no NATS, no HTTP, and nothing of a daemon's configuration; `tests/boundary.rs` holds it to that.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use embed_engine::{
//!     model::{Activities, Loader, OnnxRuntime, Source, resolve},
//!     pipeline::{Pipeline, PipelineContext, Request},
//!     runner::RunLimit,
//!     settings::{BatchConfig, EngineConfig, ModelSpec},
//! };
//!
//! # async fn example() -> anyhow::Result<()> {
//! let (config, cache) = (EngineConfig::default(), Path::new("cache"));
//! // Versions in the registry, and the current one of a model.
//! let source = Source::open("build/registry", cache.to_owned(), 10 << 30)?;
//! let model = resolve(&source, &ModelSpec::current("all-MiniLM-L6-v2"), &config).await?;
//! // Engines that have reproduced its golden vectors, for texts of at most 256 KiB.
//! let backend = OnnxRuntime::new(config, 256 << 10, cache);
//! let loader = Loader::new(source, Arc::new(backend), Activities::default());
//! let loaded = loader.load(&model, false).await?;
//! // Threads that tokenize, batch and run.
//! let (batch, limit) = (BatchConfig::default(), Arc::new(RunLimit::new(loaded.engines.len())));
//! let pipeline = Pipeline::start(model.metadata, loaded, PipelineContext::new(&batch, limit))?;
//! let embedded = pipeline.embed(Request::new(["hello world"])).await.expect("the pipeline goes on");
//! let vector: Option<&[f32]> = embedded.texts[0].vector(pipeline.metadata().dimension as usize);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embed_file.rs` is the same as a program: it embeds the lines of a file.
//!
//! A request goes one way: [`pipeline`] has its texts tokenized ([`tokenize`]), they wait until it is decided what runs together
//! ([`mod@batch`]), a thread takes them ([`runner`]) to an engine ([`engine`]), and the request's own callback gets the vectors.
//! [`model`] makes a version of a registry ready beforehand.

pub mod batch;
pub mod engine;
pub mod model;
pub mod pipeline;
pub mod runner;
pub mod settings;
pub mod shape;
pub mod threads;
pub mod tokenize;
