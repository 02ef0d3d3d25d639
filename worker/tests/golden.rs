//! The vectors are those of sentence-transformers, on every way and in every company.

use crate::support::{Reference, Stack, cosine, difference, references};
use embed_schemas::{EmbedRequest, EmbedResult, Encoding, Format, Lane};

fn texts(references: &[Reference]) -> Vec<String> {
    references.iter().map(|reference| reference.text.clone()).collect()
}

fn check(result: &EmbedResult, references: &[Reference], way: &str) {
    assert_eq!((result.dim, result.items.len()), (384, references.len()));
    for (i, reference) in references.iter().enumerate() {
        let item = &result.items[i];
        let text: String = reference.text.chars().take(40).collect();
        assert_eq!((item.tokens, item.truncated), (reference.tokens, reference.truncated), "{way}: {text:?}");
        let vector = result.vector(i).unwrap();
        let cosine = cosine(&vector, &reference.vector());
        assert!(cosine >= 0.9999, "{way}: {text:?}: {cosine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_gives_the_reference_vectors() {
    let stack = Stack::start().await;
    let references = references();
    let request = EmbedRequest::new(texts(&references));
    let mut results = Vec::new();
    for format in [Format::Json, Format::MessagePack] {
        results.push((format!("rpc {format:?}"), stack.call(&request, format).await.unwrap()));
        for lane in Lane::STORED {
            let outcome = stack.job(lane, request.clone(), format, &format!("golden-{lane}-{format:?}")).await;
            results.push((format!("{lane} {format:?}"), outcome.into_result().unwrap()));
        }
    }
    for (way, result) in &results {
        check(result, &references, way);
        assert_eq!((result.model.as_str(), result.variant.as_str()), ("all-minilm-l6-v2", "fp32"));
        assert_eq!((&*result.version, &result.space), ("v1.0.0", &results[0].1.space));
        for i in 0..references.len() {
            let difference = difference(&result.vector(i).unwrap(), &results[0].1.vector(i).unwrap());
            assert!(difference <= 1e-5, "{way}, text {i}: differs by {difference} from {}", results[0].0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_has_the_same_vector_in_every_company() {
    in_every_company(Stack::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_openvino_as_well() {
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(config.path(), "[engine]\nproviders = [\"openvino\"]\nstrict = true\n").unwrap();
    let stack = Stack::start_with("", &["--config", config.path().to_str().unwrap()]).await;
    let status = stack.status_when(|status| status.live.is_some()).await;
    assert_eq!(status.live.unwrap().provider, "openvino");
    in_every_company(stack).await;
}

async fn in_every_company(stack: Stack) {
    let references = references();
    // Alone, one after the other, and then all at once, so that they are batched with each other.
    let mut alone = Vec::new();
    for reference in &references {
        let request = EmbedRequest::new([reference.text.as_str()]);
        alone.push(stack.call(&request, Format::MessagePack).await.unwrap());
    }
    let requests: Vec<EmbedRequest> = (0..4).flat_map(|_| texts(&references)).map(|t| EmbedRequest::new([t])).collect();
    let together = requests.iter().map(|request| stack.call(request, Format::MessagePack));
    let together = futures::future::try_join_all(together).await.unwrap();
    assert!(together.iter().any(|result| result.timing.batch_size > 1), "nothing was batched");
    for (i, result) in together.iter().enumerate() {
        let reference = &alone[i % references.len()];
        let difference = difference(&result.vector(0).unwrap(), &reference.vector(0).unwrap());
        assert!(difference <= 1e-5, "text {}: differs by {difference}", i % references.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoding_keeps_the_direction() {
    let stack = Stack::start().await;
    let reference = &references()[1];
    for format in [Format::Json, Format::MessagePack] {
        for (encoding, least) in [
            (Encoding::F32, 0.99999),
            (Encoding::Float, 0.99999),
            (Encoding::Base64, 0.99999),
            (Encoding::F16, 0.99999),
            (Encoding::I8, 0.999),
            (Encoding::U1, 0.7),
        ] {
            if (format, encoding) == (Format::MessagePack, Encoding::Base64) {
                continue;
            }
            let request = EmbedRequest { encoding: Some(encoding), ..EmbedRequest::new([reference.text.as_str()]) };
            let result = stack.call(&request, format).await.unwrap();
            assert_eq!(result.encoding, encoding);
            let cosine = cosine(&result.vector(0).unwrap(), &reference.vector());
            assert!(cosine > least, "{format:?} {encoding}: {cosine}");
        }
    }
}
