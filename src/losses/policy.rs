//! For reinforcement learning, and against it: log-probabilities, entropies, tokens that are not to
//! come.

use crate::{Logit, Loss, Outputs, Row, Target, loss};

/// What [`token_logprob`] gives for each token.
#[derive(Outputs, Clone, Copy, Debug)]
pub struct TokenLogprob {
    /// The logarithm of the given token's probability.
    pub logprob: Row,
    /// The entropy of the distribution, in nats.
    pub entropy: Row,
}

/// The log-probability of a given token, and the entropy of the distribution: what policy gradients
/// are made of.
///
/// `logprob = x[y] - lse(x); entropy = lse(x) - sum_j p_j x_j`
///
/// Both take an upstream gradient a token: the backward of PPO's or GRPO's objective, whatever it
/// is, is this program's backward with that objective's derivatives. Schulman et al., *Proximal
/// Policy Optimization Algorithms*, [arXiv:1707.06347](https://arxiv.org/abs/1707.06347), equations
/// 7 and 9.
#[loss]
pub fn token_logprob(x: Logit, y: Target) -> TokenLogprob {
    let l = lse(x);
    TokenLogprob { logprob: -(l - at(x, y)), entropy: l - expect(x, x) }
}

/// The unlikelihood of one given token, which is not to be predicted.
///
/// `loss = -ln(1 - p[y])`
///
/// Welleck et al., *Neural Text Generation with Unlikelihood Training*,
/// [arXiv:1908.04319](https://arxiv.org/abs/1908.04319), equation 3, with one negative candidate.
/// `ln(1 - e^-a)` is computed in two ways, so that it is exact for all `a`: Mächler, *Accurately
/// Computing log(1 - exp(-|a|))*, 2012. On a GPU, in fp32, a token with log-odds beyond 87 loses digits, and
/// from 104 on its loss is infinite.
#[loss]
pub fn unlikelihood(x: Logit, y: Target) -> Loss {
    let nll = lse(x) - at(x, y);
    if nll < 0.6931471805599453 { -ln(-expm1(-nll)) } else { -log1p(-exp(-nll)) }
}
