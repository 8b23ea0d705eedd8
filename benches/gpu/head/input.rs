//! The heads that are measured, and their inputs on the GPU.

use super::arguments::Arguments;
use cce::DType;
use cce_runtime::driver::{Buffer, Context, Stream};
use cce_tune::data::{Elements, Head, MODELS, Targets};

/// Lengths of runs of ignored tokens.
const RUNS: std::ops::RangeInclusive<usize> = 256..=1024;

/// A head to be made or loaded.
pub struct Wanted {
    name: String,
    /// What its numbers are: generated, untrained, or a file's name.
    data: String,
    hidden: usize,
    vocab: usize,
}

impl Wanted {
    /// All heads that the arguments ask for.
    pub fn of(arguments: &Arguments) -> Vec<Wanted> {
        let data = match &arguments.data {
            Some(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            None if arguments.uniform => "untrained".to_owned(),
            None => "generated".to_owned(),
        };
        let of =
            |name: &str, hidden, vocab| Wanted { name: name.to_owned(), data: data.clone(), hidden, vocab };
        if arguments.heads {
            return MODELS.iter().map(|model| of(model.name, model.hidden, model.vocab)).collect();
        }
        vec![of(&data, arguments.hidden, arguments.vocab)]
    }

    /// Makes or loads it, with at least `tokens` tokens if it is made, and copies it to the GPU.
    pub fn input(&self, arguments: &Arguments, tokens: usize, context: &Context, stream: &Stream) -> Input {
        let begin = std::time::Instant::now();
        let dtype: DType = arguments.dtype.into();
        let head = match &arguments.data {
            Some(path) => Head::load(path).unwrap().converted(dtype),
            None if arguments.uniform => Head::untrained(tokens, self.hidden, self.vocab, 1, dtype),
            None => Head::generated(tokens, self.hidden, self.vocab, 1, dtype),
        };
        let made = begin.elapsed().as_secs_f32();
        let upload = |elements: &Elements, what: &str| {
            let buffer = context.alloc(elements.len() * dtype.bytes(), what).unwrap();
            match elements {
                Elements::F32(values) => stream.upload(&buffer, 0, values),
                Elements::F16(values) => stream.upload(&buffer, 0, values),
                Elements::Bf16(values) => stream.upload(&buffer, 0, values),
            }
            .unwrap();
            buffer
        };
        let turned = head.rotated_tokens(head.tokens / 2);
        let hidden = [&head.hidden, &turned.0].map(|hidden| upload(hidden, "hidden states"));
        let classifier = upload(&head.classifier, "the classifier");
        eprintln!(
            "{}: {made:.1} s to make or load it, {:.1} s until it was on the GPU",
            self.name,
            begin.elapsed().as_secs_f32()
        );
        Input {
            name: self.name.clone(),
            data: self.data.clone(),
            tokens: head.tokens,
            width: head.width,
            vocab: head.vocab,
            dtype,
            hidden,
            classifier,
            targets: [head.targets, turned.1],
        }
    }
}

/// A head on the GPU: the classifier, and two sets of tokens to rotate between, the second the first by half.
pub struct Input {
    pub name: String,
    pub data: String,
    pub tokens: usize,
    pub width: usize,
    pub vocab: usize,
    pub dtype: DType,
    pub hidden: [Buffer; 2],
    pub classifier: Buffer,
    targets: [Targets; 2],
}

/// The targets of the first tokens on the GPU, by set.
pub struct TokenTargets {
    /// With those ignored that are to be.
    pub measured: [Buffer; 2],
    /// Without, where the arguments ask for some to be ignored and the head has none ignored itself.
    pub full: Option<[Buffer; 2]>,
    /// Tokens that count among `measured`, by set.
    pub counted: [usize; 2],
}

impl Input {
    pub fn targets(
        &self,
        tokens: usize,
        arguments: &Arguments,
        context: &Context,
        stream: &Stream,
    ) -> TokenTargets {
        let all = [0, 1].map(|set| self.targets[set].first(tokens));
        let measured = [0, 1].map(|set| match arguments.ignored {
            None => all[set].clone(),
            Some(share) if arguments.ignored_in_runs => {
                all[set].with_ignored_runs(share, RUNS, 1 + set as u64)
            }
            Some(share) => all[set].with_ignored(share, 1 + set as u64),
        });
        let upload = |targets: &Targets| {
            let buffer = context.alloc(tokens * 4, "targets").unwrap();
            stream.upload(&buffer, 0, &targets.to_i32()).unwrap();
            buffer
        };
        let complete = all.iter().all(|targets| targets.counted() == tokens);
        TokenTargets {
            counted: [0, 1].map(|set| measured[set].counted()),
            full: (arguments.ignored.is_some() && complete).then(|| [0, 1].map(|set| upload(&all[set]))),
            measured: measured.each_ref().map(upload),
        }
    }
}
