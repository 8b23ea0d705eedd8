//! Heads of published models: shapes to tune and to measure with.

/// The head of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// The model's name.
    pub name: &'static str,
    /// D, the hidden size.
    pub hidden: usize,
    /// V, the vocabulary's entries.
    pub vocab: usize,
}

/// Six heads, from small to large, as the models' configurations on Hugging Face state them.
pub const MODELS: [Model; 6] = [
    Model { name: "GPT-2", hidden: 768, vocab: 50_257 },
    Model { name: "SmolLM2 135M", hidden: 576, vocab: 49_152 },
    Model { name: "Llama 3 8B", hidden: 4096, vocab: 128_256 },
    Model { name: "Qwen 2.5 7B", hidden: 3584, vocab: 152_064 },
    Model { name: "Gemma 2 2B", hidden: 2304, vocab: 256_000 },
    Model { name: "Gemma 3 27B", hidden: 5376, vocab: 262_144 },
];

impl Model {
    /// The name as the command line takes it: `gpt-2`, `gemma-2-2b`.
    pub fn flag(&self) -> String {
        self.name.to_lowercase().replace(' ', "-")
    }
}
