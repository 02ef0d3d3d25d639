//! Embeds the lines of standard input as they come: `cargo run --release -p embed-client --example stream < lines.txt`.

use std::{
    env,
    error::Error,
    io::{self, BufRead, Write},
};

use embed_client::{Client, ConnectSettings, Slug, StreamOptions};
use futures::{StreamExt, stream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = ConnectSettings { server: env::var("NATS_URL").ok(), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await?;
    let model: Slug = "all-minilm-l6-v2".parse()?;

    // Lines are read as there is room for them: the file may be larger than memory.
    let lines = stream::iter(io::BufReader::new(io::stdin()).lines().map_while(Result::ok));
    let mut rows = std::pin::pin!(client.embed_stream(&model, lines, StreamOptions::default()));
    let mut number = 0;
    while let Some(row) = rows.next().await {
        let row = row?;
        number += 1;
        writeln!(io::stdout(), "{number}: {} tokens, {} dimensions", row.item().tokens, row.vector()?.len())?;
    }
    Ok(())
}
