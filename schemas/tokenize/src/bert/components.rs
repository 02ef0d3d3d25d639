//! Which tokenizers are known: the parts of a `tokenizer.json`, and what they must be.

use std::borrow::Borrow;

use tokenizers::{
    DecoderWrapper, Normalizer, NormalizerWrapper, PostProcessorWrapper, PreTokenizer, PreTokenizerWrapper,
    TokenizerImpl,
    models::{ModelWrapper, wordpiece::WordPiece},
    normalizers::BertNormalizer,
    pre_tokenizers::bert::BertPreTokenizer,
    processors::template::TemplateProcessing,
};

/// More added tokens than this are not looked for one by one, at each character that one of them begins with.
const MOST_ADDED: usize = 256;

/// A tokenizer of the library, with its normalizer and its pre-tokenizer as they are, or within something else.
pub(crate) type Parts<N, P> = TokenizerImpl<ModelWrapper, N, P, PostProcessorWrapper, DecoderWrapper>;

/// The parts of a tokenizer of the BERT family.
#[derive(Debug)]
pub(super) struct Components<'a> {
    pub(super) normalizer: BertNormalizer,
    pub(super) pre_tokenizer: BertPreTokenizer,
    pub(super) model: &'a WordPiece,
    /// Contents of the added tokens.
    pub(super) added: Vec<Box<str>>,
    /// Ids put before those of a text.
    pub(super) opening: Vec<u32>,
    /// Ids put after them.
    pub(super) closing: Vec<u32>,
}

impl<'a> Components<'a> {
    /// Looks at a tokenizer's parts. Truncation and padding must be off.
    ///
    /// # Errors
    /// Which part is another one.
    pub(super) fn of<N, P>(tokenizer: &'a Parts<N, P>) -> Result<Self, String>
    where
        N: Normalizer + Borrow<NormalizerWrapper>,
        P: PreTokenizer + Borrow<PreTokenizerWrapper>,
    {
        let normalizer = tokenizer.get_normalizer().map(Borrow::borrow);
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = normalizer else {
            return Err("the normalizer is no BertNormalizer".into());
        };
        let pre_tokenizer = tokenizer.get_pre_tokenizer().map(Borrow::borrow);
        let Some(PreTokenizerWrapper::BertPreTokenizer(pre_tokenizer)) = pre_tokenizer else {
            return Err("the pre-tokenizer is no BertPreTokenizer".into());
        };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else {
            return Err("the model is no WordPiece".into());
        };
        if tokenizer.get_truncation().is_some() || tokenizer.get_padding().is_some() {
            return Err("it truncates or pads".into());
        }
        let mut added = Vec::new();
        for token in tokenizer.get_added_tokens_decoder().into_values() {
            if token.normalized {
                return Err(format!("the added token {:?} is normalized", token.content));
            }
            added.push(token.content.into_boxed_str());
        }
        if added.len() > MOST_ADDED {
            return Err(format!("it has {} added tokens", added.len()));
        }
        let (opening, closing) = match tokenizer.get_post_processor() {
            Some(PostProcessorWrapper::Bert(bert)) => (vec![bert.get_cls_copy().1], vec![bert.get_sep_copy().1]),
            Some(PostProcessorWrapper::Template(template)) => around(template)?,
            _ => return Err("the post-processor is neither BertProcessing nor TemplateProcessing".into()),
        };
        Ok(Self { normalizer: *normalizer, pre_tokenizer: *pre_tokenizer, model, added, opening, closing })
    }
}

/// The ids that a template puts before and after a single text.
fn around(template: &TemplateProcessing) -> Result<(Vec<u32>, Vec<u32>), String> {
    // Its fields can be read only in its serialized form.
    let template = serde_json::to_value(template).map_err(|e| e.to_string())?;
    let unknown = || "the post-processor's template for single texts is not special tokens around one text".to_owned();
    let (mut ids, mut opening) = (Vec::new(), None);
    for piece in template["single"].as_array().ok_or_else(unknown)? {
        if let Some(name) = piece["SpecialToken"]["id"].as_str() {
            let special = template["special_tokens"][name]["ids"].as_array().ok_or_else(unknown)?;
            for id in special {
                ids.push(id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(unknown)?);
            }
        } else if piece["Sequence"]["id"] == "A" && opening.is_none() {
            opening = Some(std::mem::take(&mut ids));
        } else {
            return Err(unknown());
        }
    }
    Ok((opening.ok_or_else(unknown)?, ids))
}
