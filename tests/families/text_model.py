"""A tiny random Qwen2.5 of text alone: the demo's tokenizer and the real architecture."""

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from examples.digits.model import PAD_VOCAB_TO, make_tokenizer

# As the published one: contents are strings.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_text_model(folder, *, tied=False, seed=0, num_layers=4, std=0.06, corpus=()):
    """Write config, weights, tokenizer and chat template to `folder`; no weight is 0 or 1."""
    tokenizer = make_tokenizer(corpus)
    tokenizer.chat_template = CHAT_TEMPLATE
    ids = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // PAD_VOCAB_TO) * PAD_VOCAB_TO,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **ids,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(1.0, 0.2) if is_norm else parameter.normal_(0.0, std)
        model.model.norm.weight.mul_(2.0)  # logits that differ by units
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
