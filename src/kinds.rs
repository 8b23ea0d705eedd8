//! The types in a loss's signature: what a value varies over. They exist at compile time only.

/// The raw logit `x_ij = E_i . C_j`: one value for every token `i` and vocabulary entry `j`. A loss
/// has exactly one as its input; what is computed from it is a Logit too, until a reduction over
/// the vocabulary (`lse`, `at`, `mean`, `expect`) makes it a [`Row`].
#[derive(Clone, Copy, Debug)]
pub struct Logit(());

/// The target's index `y_i` into the vocabulary, one a token. It is no number: `at(z, y)` reads at
/// it, nothing else does.
#[derive(Clone, Copy, Debug)]
pub struct Target(());

/// One value a token, f32 \[N\]: a token's weight, say. Reductions give Rows, and outputs are Rows.
#[derive(Clone, Copy, Debug)]
pub struct Row(());

/// One value a vocabulary entry, f32 \[V\]: a bias or a class weight, say.
#[derive(Clone, Copy, Debug)]
pub struct Col(());

/// One f32 for the whole call, on the host or in device memory: a temperature or a cap, say.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

/// What a loss with the one output `loss` returns: the same as a struct `{ loss: Row }`.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// The loss of each token.
    pub loss: Row,
}
