//! Answers that come as one.

use savi_schema::{Completion, Token};
use serde_json::{Value, json};

use super::{Usage, Voice, logprobs, reason};
use crate::generation::{Run, Told};
use crate::refusal::Refusal;
use crate::request::Shape;

/// Waits for all choices.
pub(crate) async fn whole(mut run: Run, voice: &Voice) -> Result<Value, Refusal> {
    let mut usage = Usage::default();
    let mut completions: Vec<Option<Completion>> = vec![None; run.choices()];
    let mut tokens: Vec<Vec<Token>> = vec![Vec::new(); run.choices()];
    while let Some(told) = run.next().await {
        match told? {
            Told::Started { prompt_tokens, cached_tokens, .. } => {
                usage.prompt += prompt_tokens;
                usage.cached += cached_tokens;
            }
            Told::Delta { choice, tokens: new, .. } => {
                if let Some(tokens) = tokens.get_mut(choice) {
                    tokens.extend(new);
                }
            }
            Told::Done { choice, completion } => {
                usage.completion += completion.token_ids.len();
                if let Some(place) = completions.get_mut(choice) {
                    *place = Some(completion);
                }
            }
        }
    }
    let mut choices = Vec::new();
    for (index, (completion, tokens)) in completions.into_iter().zip(tokens).enumerate() {
        let Some(completion) = completion else {
            tracing::error!("the back end gave no choice {index}");
            return Err(Refusal::internal("the server failed; its log says more"));
        };
        choices.push(voice.choice(index, &completion, &tokens));
    }
    let object = match voice.shape {
        Shape::Chat => "chat.completion",
        Shape::Text => "text_completion",
    };
    let mut answer = voice.with(object, choices);
    answer["usage"] = usage.value();
    Ok(answer)
}

impl Voice {
    fn choice(&self, index: usize, completion: &Completion, tokens: &[Token]) -> Value {
        let finish = reason(completion.finish_reason);
        match self.shape {
            Shape::Chat => json!({
                "index": index,
                "message": {"role": "assistant", "content": completion.text, "refusal": null},
                "logprobs": self.logprobs.map(|most| logprobs::chat(tokens, most)),
                "finish_reason": finish,
            }),
            Shape::Text => json!({
                "index": index,
                "text": completion.text,
                "logprobs": self.logprobs.map(|most| logprobs::completion(tokens, most, &mut 0)),
                "finish_reason": finish,
            }),
        }
    }
}
