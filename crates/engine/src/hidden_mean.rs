//! A model's own states as embeddings of texts: the mean of the last hidden states of a text's tokens.

use std::sync::Arc;

use candle_core::DType;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent};
use savi_schema::{Embed, Generate, GenerateError, RgbImage, Tokenize};

use crate::{Engine, EngineError};

/// The model of an engine as an embedder.
#[derive(Debug, Clone, Copy)]
pub struct HiddenMean<'a>(pub &'a Engine);

impl HiddenMean<'_> {
    /// Names the weights and what is made of them.
    pub fn fingerprint(&self) -> String {
        format!("hidden-mean:{}", self.0.fingerprint())
    }

    /// All texts in one pass, each a sequence of its own; a vector `[width]` of length 1 for each.
    fn texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EngineError> {
        let (engine, model) = (self.0, self.0.model());
        let limit = model.config().max_position_embeddings;
        let mut forest = Forest::new();
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        for text in texts {
            let mut tokens = engine.text().encode(text)?;
            if tokens.is_empty() {
                // Nothing was said: what is left of a turn that ends is its end.
                tokens.extend(engine.end_tokens().first());
            }
            if tokens.is_empty() || tokens.len() > limit {
                let reason = format!(
                    "a text of {} tokens has no mean state in a model of {limit} positions",
                    tokens.len()
                );
                return Err(EngineError::Conversation(reason));
            }
            forest.push(Parent::Root, tokens.len());
            lengths.push(tokens.len());
            ids.extend(tokens);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let embeds = model.embed(&ids, &[], Mode::INFER)?;
        let hidden = model.hidden(&embeds, &Arc::new(forest), Mode::INFER)?;
        let (mut vectors, mut start) = (Vec::with_capacity(texts.len()), 0);
        for length in lengths {
            let states = hidden.narrow(0, start, length)?.to_dtype(DType::F32)?;
            let mean: Vec<f32> = states.mean(0)?.to_vec1()?;
            start += length;
            let norm = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
            vectors
                .push(mean.into_iter().map(|value| value / norm.max(f32::MIN_POSITIVE)).collect());
        }
        Ok(vectors)
    }
}

impl Embed for HiddenMean<'_> {
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, GenerateError> {
        self.texts(texts).map_err(|error| error.for_request("mean states"))
    }

    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, GenerateError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        Err(GenerateError::BadRequest {
            id: "mean states".to_owned(),
            reason: "mean states are of texts, not of pictures".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineOptions;

    #[test]
    fn vectors_are_of_length_one_and_do_not_depend_on_company() {
        let options = EngineOptions { device: "cpu".to_owned(), ..EngineOptions::default() };
        let engine = Engine::load("builtin:tiny-text", &options).unwrap();
        let embed = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            HiddenMean(&engine).embed_texts(&texts).unwrap()
        };
        let words = ["Max has 3 shells.", "Max has 3 stones.", "Hello!"];
        let all = embed(&words);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        for (vector, text) in all.iter().zip(words) {
            assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
            assert_eq!(*vector, embed(&[text])[0]);
        }
        assert!(dot(&all[0], &all[1]) > dot(&all[0], &all[2]), "alike words lie near each other");
        assert!(embed(&[]).is_empty());
        // A text of nothing is the end of a turn.
        assert!((dot(&embed(&[""])[0], &embed(&[""])[0]) - 1.0).abs() < 1e-5);
        let long = HiddenMean(&engine).embed_texts(&["a ".repeat(2000)]).unwrap_err();
        assert!(long.to_string().contains("no mean state"), "{long}");

        // By hand: the mean of the states of one text.
        let ids = engine.text().encode(words[2]).unwrap();
        let mut forest = Forest::new();
        forest.push(Parent::Root, ids.len());
        let embeds = engine.model().embed(&ids, &[], Mode::INFER).unwrap();
        let hidden = engine.model().hidden(&embeds, &Arc::new(forest), Mode::INFER).unwrap();
        let rows: Vec<Vec<f32>> = hidden.to_vec2().unwrap();
        let sum: Vec<f32> =
            (0..rows[0].len()).map(|at| rows.iter().map(|row| row[at]).sum()).collect();
        let length = dot(&sum, &sum).sqrt();
        let near = |a: &f32, b: &f32| (a - b / length).abs() < 1e-5;
        assert!(all[2].iter().zip(&sum).all(|(a, b)| near(a, b)));
    }
}
