//! Texts that are held to a form while they are drawn: a choice, JSON of a schema, a regular expression, a grammar.
//!
//! llguidance follows a text through a grammar byte by byte and says which bytes can come next; over the trie of all
//! tokens this becomes a mask of tokens. A token is allowed exactly if some text of the form begins with the text so
//! far and this token, so how a text is cut into tokens stays the model's choice. What is held to the form is the text
//! as [`TextModel::decode`] gives it: where decoding takes a blank off a text's start (Llama 2), a first token with
//! that blank is allowed, too.
//!
//! Tokens that end a text, the model's own and the request's, are allowed where the text is of the form; elsewhere the
//! request's are what they are as words, and end a text early if they are drawn. With `ignore_eos` the model's own are never
//! drawn; the text then goes on until nothing more can follow.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use savi_schema::{Constraint, Sampling};
use serde_json::{Value, json};
use toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};

use crate::EngineError;
use crate::text::TextModel;
use crate::vocabulary::{Joining, Vocabulary, Word};

/// What may stand between the parts of JSON: a blank, or a line's end and the next one's indentation. Without a bound a
/// small model can write blanks for ever.
const JSON_BLANKS: &str = r"( |\r?\n( {0,24}|\t{0,12}))";
/// Longest token that the trie takes, in bytes.
const LONGEST: usize = 1000;
/// Most bytes of all tokens: the trie counts its nodes with 22 bits.
const MOST_BYTES: usize = 4_000_000;
/// Compiled constraints that are kept: requests of a kind come together.
const KEPT: usize = 16;

/// The tokens that can be drawn next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mask(SimpleVob);

impl Mask {
    pub(crate) fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }
}

/// Follows texts through constraints, with the tokens of one model.
pub(crate) struct Grammars {
    factory: ParserFactory,
    ends: Vec<u32>,
    /// Tokens that begin with a blank, where decoding takes one off a text's start.
    blanks: Option<SimpleVob>,
    compiled: Mutex<Vec<(Constraint, Compiled)>>,
}

/// A constraint before the first token.
struct Compiled {
    plain: Matcher,
    /// The same after a blank that decoding takes off.
    after_blank: Option<Matcher>,
}

impl Grammars {
    /// For texts of `vocabulary` that end with one of `ends`; the tokens `never` are no words.
    pub(crate) fn new(
        vocabulary: &Vocabulary,
        ends: &[u32],
        never: &[u32],
    ) -> Result<Self, String> {
        let strips = match vocabulary.joining {
            Joining::Bytes | Joining::Pieces(_, 0) => false,
            Joining::Pieces(' ', 1) => true,
            Joining::Pieces(..) | Joining::Whole(_) => {
                let reason = "this model's tokenizer decodes texts as a whole; constraints need one whose tokens \
                              are bytes (byte-level BPE) or pieces (SentencePiece)";
                return Err(reason.to_owned());
            }
        };
        let words: Vec<Vec<u8>> = (0..vocabulary.len() as u32)
            .map(|token| match vocabulary.word(token) {
                Word::Special(name) => marked(name.as_bytes()),
                _ if ends.contains(&token) || never.contains(&token) => {
                    marked(vocabulary.bytes(token))
                }
                _ => vocabulary.bytes(token).to_vec(),
            })
            .map(|word| if word.len() > LONGEST { Vec::new() } else { word })
            .collect();
        let bytes: usize = words.iter().map(Vec::len).sum();
        if words.is_empty() || bytes > MOST_BYTES {
            let (count, most) = (words.len(), MOST_BYTES);
            return Err(format!(
                "{count} tokens of {bytes} bytes in all (from 1 token to {most} bytes are supported)"
            ));
        }
        let blanks = strips.then(|| {
            let starts: Vec<bool> = words.iter().map(|word| word.starts_with(b" ")).collect();
            SimpleVob::from_slice(&starts)
        });
        let info = TokRxInfo::new(words.len() as u32, INVALID_TOKEN);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| short(&error.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, ends: ends.to_vec(), blanks, compiled: Mutex::default() })
    }

    /// At the start of a text of `constraint` that ends as `sampling` says.
    pub(crate) fn start(
        &self,
        constraint: &Constraint,
        sampling: &Sampling,
    ) -> Result<Follower, EngineError> {
        let Compiled { plain, after_blank } = self.compiled(constraint)?;
        let own: &[u32] = if sampling.ignore_eos { &[] } else { &self.ends };
        let mut follower = Follower {
            matcher: plain,
            after_blank,
            blanks: self.blanks.clone(),
            ends: [own, &sampling.stop_token_ids].concat(),
            mask: Mask(self.factory.tok_env().tok_trie().alloc_token_set()),
            complete: false,
            over: false,
        };
        follower.look()?;
        Ok(follower)
    }

    fn compiled(&self, constraint: &Constraint) -> Result<Compiled, EngineError> {
        let mut kept = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| known == constraint) {
            let found = kept.remove(at);
            kept.insert(0, found);
        } else {
            let (name, grammar) = grammar(constraint);
            let plain = self.matcher(name, vec![grammar.clone()])?;
            let after_blank = self.blanks.as_ref().map(|_| {
                let inner = GrammarWithLexer { name: Some("inner".to_owned()), ..grammar };
                let outer = GrammarWithLexer::from_lark("start: \" \" @inner".to_owned());
                self.matcher(name, vec![outer, inner])
            });
            let compiled = Compiled { plain, after_blank: after_blank.transpose()? };
            kept.insert(0, (constraint.clone(), compiled));
            kept.truncate(KEPT);
        }
        let Some((_, first)) = kept.first() else {
            return Err(failed("was not kept"));
        };
        // With what was learnt of the grammar copied, rows neither wait for each other nor fill a common store.
        let after_blank = first.after_blank.as_ref().map(Matcher::deep_clone);
        Ok(Compiled { plain: first.plain.deep_clone(), after_blank })
    }

    fn matcher(&self, name: &str, grammars: Vec<GrammarWithLexer>) -> Result<Matcher, EngineError> {
        let grammar = TopLevelGrammar { grammars, max_tokens: None };
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(matcher),
            Some(error) => {
                Err(EngineError::Constraint(format!("constraint.{name}: {}", short(&error))))
            }
        }
    }
}

/// Where a text stands in its constraint.
pub(crate) struct Follower {
    matcher: Matcher,
    /// Before the first token: the same constraint after a blank that decoding takes off, and the tokens that
    /// begin with one.
    after_blank: Option<Matcher>,
    blanks: Option<SimpleVob>,
    /// The tokens that end this text.
    ends: Vec<u32>,
    mask: Mask,
    complete: bool,
    over: bool,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("complete", &self.complete).finish_non_exhaustive()
    }
}

impl Follower {
    /// The tokens that may come next, those that end the text only where it is of the form.
    pub(crate) fn allowed(&self) -> &Mask {
        &self.mask
    }

    /// Whether the text so far is of the form.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether it is, and nothing but its end can follow.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The text goes on with `token`, which does not end it.
    pub(crate) fn take(&mut self, token: u32) -> Result<(), EngineError> {
        if !self.mask.allows(token) {
            return Err(failed(&format!("token {token} does not fit the text so far")));
        }
        let begins = |blanks: SimpleVob| blanks.is_allowed(token);
        let blank = self.blanks.take().is_some_and(begins);
        if let Some(after) = self.after_blank.take().filter(|_| blank) {
            self.matcher = after;
        }
        self.matcher.consume_token(token).map_err(|error| failed(&error.to_string()))?;
        self.look()
    }

    /// What can follow.
    fn look(&mut self) -> Result<(), EngineError> {
        let (complete, mut mask) = next(&mut self.matcher, &self.mask)?;
        if let (Some(after), Some(blanks)) = (&mut self.after_blank, &self.blanks) {
            let (_, after) = next(after, &self.mask)?;
            mask.sub(blanks);
            mask.or(&after);
        }
        (self.complete, self.over) = (complete, complete && mask.is_zero());
        if !complete && mask.is_zero() {
            return Err(failed("no token of this model fits the text so far"));
        }
        for &token in self.ends.iter().filter(|_| complete) {
            if (token as usize) < mask.len() {
                mask.allow_token(token);
            }
        }
        self.mask = Mask(mask);
        Ok(())
    }
}

/// Whether a text may end where it is, and the tokens that it can go on with.
fn next(matcher: &mut Matcher, like: &Mask) -> Result<(bool, SimpleVob), EngineError> {
    let mut none = like.0.clone();
    none.set_all(false);
    if matcher.is_stopped() {
        return Ok((matcher.stop_reason().is_ok(), none));
    }
    let complete = matcher.is_accepting().map_err(|error| failed(&error.to_string()))?;
    match matcher.compute_mask() {
        Ok(mask) => Ok((complete, mask)),
        // Nothing can follow: a text that is whole ends here, another cannot be written with these tokens.
        Err(error) if complete || error.to_string().contains("NoExtension") => Ok((complete, none)),
        Err(error) => Err(failed(&error.to_string())),
    }
}

fn failed(reason: &str) -> EngineError {
    EngineError::Constraint(format!("constraint: {}", short(reason)))
}

/// Without the state of the parser and the addresses of its code.
fn short(error: &str) -> String {
    let end =
        ["<backtrace>", "<non-verbose/>", "<state>"].iter().filter_map(|mark| error.find(mark));
    error[..end.min().unwrap_or(error.len())].trim().to_owned()
}

/// A token that is no part of a text, as tries have it.
fn marked(name: &[u8]) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat()
}

/// The constraint's name in requests and its grammar.
fn grammar(constraint: &Constraint) -> (&'static str, GrammarWithLexer) {
    match constraint {
        Constraint::Choice(choices) => {
            let full = choices.iter().filter(|choice| !choice.is_empty());
            let words: Vec<String> = full.map(|choice| json!(choice).to_string()).collect();
            let mut starts = Vec::new();
            if choices.iter().any(String::is_empty) {
                starts.push("\"\"");
            }
            let mut rules = String::new();
            if !words.is_empty() {
                starts.push("CHOICE");
                rules = format!("\nCHOICE: {}", words.join(" | "));
            }
            let lark = format!("start: {}{rules}", starts.join(" | "));
            ("choice", GrammarWithLexer::from_lark(lark))
        }
        Constraint::JsonSchema(schema) => {
            let schema = with_blanks(schema.clone());
            ("json_schema", GrammarWithLexer::from_json_schema(schema))
        }
        Constraint::JsonObject => {
            let schema = with_blanks(json!({"type": "object"}));
            ("json_object", GrammarWithLexer::from_json_schema(schema))
        }
        Constraint::Regex(pattern) => ("regex", GrammarWithLexer::from_regex(pattern)),
        Constraint::Grammar(lark) => ("grammar", GrammarWithLexer::from_lark(lark.clone())),
    }
}

/// The schema with a bound on blanks, unless it says of its own how llguidance is to write it.
fn with_blanks(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(keys) = schema.as_object_mut() {
        keys.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": JSON_BLANKS}));
    }
    schema
}

impl TextModel {
    /// Follows the constraint of a sampling, if it has one.
    pub(crate) fn follow(&self, sampling: &Sampling) -> Result<Option<Follower>, EngineError> {
        let Some(constraint) = &sampling.constraint else { return Ok(None) };
        let made = self
            .lazy
            .grammars
            .get_or_init(|| Grammars::new(self.vocabulary(), self.ends(), self.placeholders()));
        match made {
            Ok(grammars) => grammars.start(constraint, sampling).map(Some),
            Err(reason) => Err(failed(reason)),
        }
    }
}

#[cfg(test)]
mod tests;
