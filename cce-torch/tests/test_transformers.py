"""Patched models of transformers: the same loss, gradients and optimiser step."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from conftest import DEVICE, distance

transformers = pytest.importorskip("transformers")

from cce_torch.transformers import patch, unpatch  # noqa: E402

VOCAB = 97
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": lambda t: t.LlamaConfig(**SMALL),
    "llama, tied": lambda t: t.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gemma 2": lambda t: t.Gemma2Config(**SMALL, final_logit_softcapping=5.0),
    "gemma 3": lambda t: t.Gemma3TextConfig(**SMALL),
    "gemma 3, softcap": lambda t: t.Gemma3TextConfig(**SMALL, final_logit_softcapping=4.0),
    "qwen 2.5": lambda t: t.Qwen2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"}),
    "qwen 3": lambda t: t.Qwen3Config(**SMALL),
    "mistral": lambda t: t.MistralConfig(**SMALL),
    "phi 3": lambda t: t.Phi3Config(**{k: v for k, v in SMALL.items() if k != "head_dim"}),
    "gpt 2": lambda t: t.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "cohere": lambda t: t.CohereConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logit_scale=0.25),
    "granite": lambda t: t.GraniteConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logits_scaling=3.0),
}


def build(name: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    config = CONFIGS[name](transformers)
    config._attn_implementation = "eager"
    for dropout in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, dropout):
            setattr(config, dropout, 0.0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(DEVICE, dtype).train()
    with torch.no_grad():
        # Far from a uniform softmax, so that softcap and scale matter.
        model.lm_head.weight.mul_(20)
    return model


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCAB, (2, 12), generator=generator)
    labels = ids.clone()
    labels[0, :4] = -100
    return {"input_ids": ids.to(DEVICE), "labels": labels.to(DEVICE)}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_patched_model_has_the_same_loss_gradients_and_step(name):
    plain = build(name)
    patched = patch(copy.deepcopy(plain))
    outputs = [model(**batch()) for model in (plain, patched)]
    assert outputs[1].logits is None and "logits" not in outputs[1]
    assert distance(outputs[1].loss, outputs[0].loss) < 1e-6
    for model, output in zip((plain, patched), outputs):
        output.loss.backward()
    for (parameter_name, ours), theirs in zip(patched.named_parameters(), plain.parameters()):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            assert distance(ours.grad, theirs.grad) < 2e-5, parameter_name
    for model in (plain, patched):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    for ours, theirs in zip(patched.parameters(), plain.parameters()):
        assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma 2", "qwen 3"])
def test_in_bf16_the_loss_and_gradients_are_equal_to_rounding(name):
    plain = build(name, torch.bfloat16)
    patched = patch(copy.deepcopy(plain))
    losses = [model(**batch()).loss for model in (plain, patched)]
    for loss in losses:
        loss.backward()
    assert distance(losses[1], losses[0]) < 1e-2
    assert distance(patched.lm_head.weight.grad, plain.lm_head.weight.grad) < 3e-2


def test_num_items_in_batch_divides_the_sum():
    plain = build("llama")
    patched = patch(copy.deepcopy(plain))
    for items in (37, torch.tensor(37, device=DEVICE)):
        losses = [model(**batch(), num_items_in_batch=items).loss for model in (plain, patched)]
        assert distance(losses[1], losses[0]) < 1e-6


def test_labels_that_are_shifted_already_are_taken_as_they_are():
    plain = build("llama")
    patched = patch(copy.deepcopy(plain))
    given = batch()
    shifted = torch.nn.functional.pad(given["labels"], (0, 1), value=-100)[..., 1:].contiguous()
    losses = [model(**given, shift_labels=shifted).loss for model in (plain, patched)]
    assert distance(losses[1], losses[0]) < 1e-6


def test_without_labels_the_model_is_as_it_was():
    plain = build("gemma 2")
    patched = patch(copy.deepcopy(plain))
    ids = batch()["input_ids"]
    assert torch.equal(patched(input_ids=ids).logits, plain(input_ids=ids).logits)
    generated = [model.eval().generate(ids, max_new_tokens=3, do_sample=False) for model in (plain, patched)]
    assert torch.equal(*generated)


def test_evaluation_may_keep_its_logits():
    plain = build("llama").eval()
    patched = patch(copy.deepcopy(plain), eval_logits=True)
    with torch.no_grad():
        ours, theirs = patched(**batch()), plain(**batch())
        assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.loss, theirs.loss)
        assert patched.train()(**batch()).logits is None


def test_tuples_are_tuples():
    patched = patch(build("llama"))
    loss, logits, *_ = patched(**batch(), return_dict=False)
    assert loss.shape == () and logits is None


def test_a_patch_is_undone():
    plain = build("llama")
    patched = patch(copy.deepcopy(plain))
    with pytest.raises(ValueError, match="patched already"):
        patch(patched)
    again = unpatch(patched)
    assert torch.equal(again(**batch()).logits, plain(**batch()).logits)
    assert patch(again)(**batch()).logits is None


def test_what_others_installed_is_used_and_restored():
    model = build("llama")
    calls = []
    own, head = model.forward, model.lm_head.forward
    model.forward = lambda *a, **k: (calls.append("model"), own(*a, **k))[1]
    model.lm_head.forward = lambda x: (calls.append("head"), head(x))[1]
    model.loss_function = lambda logits, labels, **_: logits.sum() * 0 + 7
    had = model.forward, model.lm_head.forward, model._loss_function
    patch(model, eval_logits=True)
    assert model.eval()(**batch()).loss == 7 and calls == ["model", "head"]
    assert model.train()(**batch()).loss != 7
    unpatch(model)
    assert (model.forward, model.lm_head.forward, model._loss_function) == had


def test_a_linear_head_with_a_forward_of_its_own_is_refused():
    class Quantised(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x.round())

    model = build("llama")
    model.lm_head = Quantised(32, VOCAB, bias=False)
    with pytest.raises(ValueError, match="Quantised with a forward of its own"):
        patch(model)


def test_trainers_see_the_model_s_own_signature():
    plain = build("llama")
    patched = patch(copy.deepcopy(plain))
    assert inspect.signature(patched.forward) == inspect.signature(plain.forward)


def test_a_copy_of_a_patched_model_is_one_of_its_own():
    patched = patch(build("llama"))
    copied = copy.deepcopy(patched)
    with torch.no_grad():
        copied.lm_head.weight.mul_(0)
    assert distance(copied(**batch()).loss, torch.tensor(VOCAB).log()) < 1e-6
    assert patched(**batch()).loss > 0 and patched(**batch()).loss != copied(**batch()).loss


def test_gradient_checkpointing_and_a_resized_vocabulary_work():
    plain = build("llama")
    plain.resize_token_embeddings(VOCAB + 7)
    patched = patch(copy.deepcopy(plain))
    for model in (plain, patched):
        model.gradient_checkpointing_enable()
        model(**batch()).loss.backward()
    assert distance(patched.lm_head.weight.grad, plain.lm_head.weight.grad) < 2e-5


def test_logits_that_are_changed_otherwise_are_refused():
    model = build("llama")
    model.config.final_logit_softcapping = 3.0
    with pytest.raises(ValueError, match="something else to its logits"):
        patch(model)(**batch())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"filter": "none"}, "`filter` is 'none', expected None, 'exact' or 'sampled'"),
        ({"filter": "exact", "max_entries": 5}, "leave them out"),
        ({"eval_logits": 1}, "`eval_logits` is 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_model_is_changed(options, message):
    model = build("llama")
    with pytest.raises((TypeError, ValueError), match=message):
        patch(model, **options)
    assert not hasattr(model, "_cce_torch")


def test_what_has_no_linear_head_is_refused():
    with pytest.raises(ValueError, match="no `lm_head`"):
        patch(torch.nn.Linear(2, 2))
    model = build("llama")
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="a Sequential as `lm_head`"):
        patch(model)
