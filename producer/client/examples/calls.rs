//! Asks for the vectors of texts, and waits for them: `cargo run --release -p embed-client --example calls -- "a text" "another"`.

use std::{
    env,
    error::Error,
    io::{self, Write},
    time::Duration,
};

use embed_client::{CallOptions, Client, ConnectSettings, EmbedRequest, Slug};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = ConnectSettings { server: env::var("NATS_URL").ok(), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await?;
    let model: Slug = "all-minilm-l6-v2".parse()?;
    let texts: Vec<String> = env::args().skip(1).collect();

    // Whatever happens meanwhile, this is how long it takes at most; workers are told, and compute nothing that comes too late.
    let options = CallOptions::default().timeout(Duration::from_secs(5));
    let request = EmbedRequest { prompt: None, ..EmbedRequest::new(texts.iter().cloned()) };
    let result = client.embed(&model, request, &options).await?;

    for (row, text) in texts.iter().enumerate() {
        // One text may have failed, and the others have their vectors all the same.
        match result.vector(row) {
            Ok(vector) => writeln!(io::stdout(), "{text}: {} dimensions, {:.4}, …", vector.len(), vector[0])?,
            Err(error) => writeln!(io::stdout(), "{text}: {error}")?,
        }
    }
    Ok(())
}
