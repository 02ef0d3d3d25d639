//! What became of a line, as a line of the output or of the errors. Pure.

use embed_client::EmbedResult;

use crate::{
    api::write::{base64, number, numbers, string},
    error::ApiError,
};

/// A line of a batch. Its ids follow from where it stands, so that a line that is written again is the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The batch's id.
    pub(super) batch: &'a str,
    /// Which line, from 0.
    pub(super) line: u64,
    pub(super) custom_id: &'a str,
}

impl Place<'_> {
    /// The line of a request that has its vectors: each a row of a result, in the order of the texts.
    pub(super) fn vectors(&self, model: &str, rows: &[(&EmbedResult, usize)], as_base64: bool, to: &mut Vec<u8>) {
        self.begin(to);
        self.response(200, to);
        to.extend_from_slice(br#"{"object":"list","data":["#);
        for (index, (result, row)) in rows.iter().enumerate() {
            if index > 0 {
                to.push(b',');
            }
            to.extend_from_slice(br#"{"object":"embedding","index":"#);
            number(index as u64, to);
            to.extend_from_slice(br#","embedding":"#);
            match as_base64 {
                true => base64(result, *row, to),
                false => numbers(result, *row, to),
            }
            to.push(b'}');
        }
        to.extend_from_slice(br#"],"model":"#);
        string(model, to);
        let tokens = rows.iter().map(|(result, row)| u64::from(result.items[*row].tokens)).sum();
        to.extend_from_slice(br#","usage":{"prompt_tokens":"#);
        number(tokens, to);
        to.extend_from_slice(br#","total_tokens":"#);
        number(tokens, to);
        to.extend_from_slice(b"}}},\"error\":null}\n");
    }

    /// The line of a request that has none.
    pub(super) fn refused(&self, error: &ApiError, to: &mut Vec<u8>) {
        self.begin(to);
        self.response(error.status.as_u16(), to);
        to.extend_from_slice(&error.body());
        to.extend_from_slice(b"},\"error\":null}\n");
    }

    /// The line of a request that was not done.
    pub(super) fn undone(&self, code: &str, message: &str, to: &mut Vec<u8>) {
        self.begin(to);
        to.extend_from_slice(br#"null,"error":{"code":"#);
        string(code, to);
        to.extend_from_slice(br#","message":"#);
        string(message, to);
        to.extend_from_slice(b"}}\n");
    }

    fn begin(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(br#"{"id":"#);
        string(&self.id("batch_req"), to);
        to.extend_from_slice(br#","custom_id":"#);
        string(self.custom_id, to);
        to.extend_from_slice(br#","response":"#);
    }

    fn response(&self, status: u16, to: &mut Vec<u8>) {
        to.extend_from_slice(br#"{"status_code":"#);
        number(status.into(), to);
        to.extend_from_slice(br#","request_id":"#);
        string(&self.id("req"), to);
        to.extend_from_slice(br#","body":"#);
    }

    fn id(&self, what: &str) -> String {
        format!("{what}_{}_{}", self.batch.trim_start_matches("batch_"), self.line)
    }
}

#[cfg(test)]
mod tests {
    use embed_client::{Encoding, Item};
    use serde_json::{Value, json};

    use super::*;

    const PLACE: Place<'_> = Place { batch: "batch_b", line: 7, custom_id: "mine \"7\"" };

    fn read(line: &[u8]) -> Value {
        let read: Value = serde_json::from_slice(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((&read["id"], &read["custom_id"]), (&json!("batch_req_b_7"), &json!(PLACE.custom_id)));
        read
    }

    #[test]
    fn lines_are_those_of_openai() {
        let mut vectors = Vec::new();
        Encoding::F32.storage().encode_row(&[0.5, -2.0], &mut vectors);
        let result = EmbedResult {
            id: "a".parse().unwrap(),
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            version: "v1".into(),
            space: "s".into(),
            dim: 2,
            encoding: Encoding::F32,
            vectors: vectors.into(),
            items: vec![Item { tokens: 3, ..Item::default() }],
            timing: embed_schemas::Timing::default(),
        };
        let [mut done, mut refused, mut undone] = <[Vec<u8>; 3]>::default();
        PLACE.vectors("M", &[(&result, 0), (&result, 0)], false, &mut done);
        PLACE.refused(&ApiError::invalid("input", "input: is empty"), &mut refused);
        PLACE.undone("batch_expired", "too late", &mut undone);
        let (done, refused, undone) = (read(&done), read(&refused), read(&undone));
        assert_eq!(done["error"], Value::Null);
        assert_eq!(
            (&done["response"]["status_code"], &done["response"]["request_id"]),
            (&json!(200), &json!("req_b_7"))
        );
        let vector = |index: u64| json!({"object": "embedding", "index": index, "embedding": [0.5, -2.0]});
        let usage = json!({"prompt_tokens": 6, "total_tokens": 6});
        let body = json!({"object": "list", "data": [vector(0), vector(1)], "model": "M", "usage": usage});
        assert_eq!(done["response"]["body"], body);
        let error = json!({
            "message": "input: is empty", "type": "invalid_request_error", "param": "input", "code": "invalid_request",
        });
        let response = json!({"status_code": 400, "request_id": "req_b_7", "body": {"error": error}});
        assert_eq!((&refused["response"], &refused["error"]), (&response, &Value::Null));
        let error = json!({"code": "batch_expired", "message": "too late"});
        assert_eq!((&undone["response"], &undone["error"]), (&Value::Null, &error));
    }
}
